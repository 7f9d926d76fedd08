"""How the commands import torch and what else they need: without looking for garbage meanwhile."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Context in which modules are imported that stay as long as the process.

    Python looks for garbage whenever a quarter of its objects are new, which while torch is imported took a quarter of the time
    and found nothing. What is there at the end is not looked at again.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
