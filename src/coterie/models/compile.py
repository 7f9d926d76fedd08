"""Training passes through torch's compiler, with a way back where it fails."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from coterie.errors import first_cause
from coterie.models.encoder import Encoder


def compile_passes(
    encoders: Sequence[tuple[Encoder, Sequence[Tensor]]], autocast: torch.dtype | None = None
) -> str | None:
    """Have the training passes of encoders compiled, and try each on views of the sizes to come.

    The trial is a pass forward and, for an encoder that learns, backward, so that the compiler fails here or not at all;
    it takes as long as the compiler does, from half a minute to some minutes, and the memory of a step. Batch statistics and
    gradients are left as they were.

    Args:
        encoders: each with its views; in training mode.
        autocast: precision of the passes, as in the loop.

    Returns:
        None, or, where the compiler failed, why, in one line: then all encoders run as they are written.

    Raises:
        torch.OutOfMemoryError: the views are too large for the device.
    """
    try:
        for encoder, views in encoders:
            encoder.compile_passes()
            with _left_as_it_was(encoder), _quiet():
                _pass(encoder, views, autocast)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of any kind: a missing g++ or Triton, or a fault of the compiler
        for encoder, _ in encoders:
            encoder.compile_passes(False)
        return first_cause(error)
    return None


def _pass(encoder: Encoder, views: Sequence[Tensor], autocast: torch.dtype | None) -> None:
    learns = next(encoder.parameters()).requires_grad
    with (
        torch.set_grad_enabled(learns),
        torch.autocast(views[0].device.type, dtype=autocast, enabled=autocast is not None),
    ):
        h, _, p = encoder(views)
    if learns:
        (h.sum() + p.sum()).backward()


@contextmanager
def _left_as_it_was(encoder: Encoder) -> Iterator[None]:
    before = [buffer.clone() for buffer in encoder.buffers()]
    try:
        yield
    finally:
        for buffer, value in zip(encoder.buffers(), before, strict=True):
            buffer.copy_(value)
        encoder.zero_grad(set_to_none=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """The compiler's own advice and tracebacks are for its makers; a failure is told by the one who asked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
