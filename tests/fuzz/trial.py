"""Many inputs, tried in a process of its own that has little memory and little time for each."""

import faulthandler
import importlib
import inspect
import json
import multiprocessing
import os
import resource
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings

from coterie.errors import UserError

MEMORY = 3 * 2**30
"""Bytes above what the program takes itself: an image of the largest size that is decoded takes about half."""
SECONDS = 60
"""For one input, on a machine that has other things to do."""

PRINTED_BY_LIBRARIES = ("tiff",)
"""libtiff, in Pillow, prints what is wrong with compressed pixels."""

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["coterie.api", "coterie.cli.main", "coterie.cli.terminal", "tests.fuzz.images", "tests.fuzz.weights", __name__]
)


def tried(module: str, kind: str, inputs: int, seed: int | None = None) -> dict[str, Any]:
    """Try so many inputs of a kind; how many there were, were accepted or refused, and how long the slowest took (s).

    Raises:
        AssertionError: one gave a traceback, took too long or too much memory, or ended the process; it is said which.
    """
    with tempfile.TemporaryDirectory() as folder:
        process = _SERVER.Process(target=_try, args=(module, kind, inputs, seed, Path(folder)))
        process.start()
        process.join()
        lines = (Path(folder) / "said.txt").read_text(errors="replace").splitlines()
        said = "\n".join(line[:200] for line in lines)
        if process.exitcode:
            kept = Path(tempfile.gettempdir()) / f"coterie-fuzz-{kind}"
            failed = Path(folder) / "failed"
            (failed if failed.exists() else Path(folder) / "input").rename(kept)
            raise AssertionError(f"{kind}: exit status {process.exitcode} (input in {kept})\n{said[-8000:]}")
        assert not said or kind in PRINTED_BY_LIBRARIES, f"{kind}: something was printed: {said[:2000]}"
        found: dict[str, Any] = json.loads((Path(folder) / "found.json").read_text())
        return found


def _try(module: str, kind: str, inputs: int, seed: int | None, folder: Path) -> None:
    with (folder / "said.txt").open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    module_ = importlib.import_module(f"tests.fuzz.{module}")
    strategy = (module_.INPUTS if hasattr(module_, "INPUTS") else module_.inputs())[kind]
    takes_bytes_alone = len(inspect.signature(module_.attempt).parameters) == 1
    place = folder / "place"
    place.mkdir()
    count, slowest = Counter[str](), 0.0

    @settings(
        max_examples=inputs,
        derandomize=seed is None,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=True,
        verbosity=Verbosity.quiet,
    )
    @given(strategy)
    def trial(data: bytes) -> None:
        nonlocal slowest
        (folder / "input").write_bytes(data)
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        began = time.monotonic()
        try:
            module_.attempt(data) if takes_bytes_alone else module_.attempt(kind, data, place)
            count["accepted"] += 1
        except UserError:
            count["refused"] += 1
        except BaseException:
            (folder / "failed").write_bytes(data)
            raise
        finally:
            slowest = max(slowest, time.monotonic() - began)
            faulthandler.cancel_dump_traceback_later()

    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, resource.RLIM_INFINITY))
    (hypothesis.seed(seed)(trial) if seed is not None else trial)()
    (folder / "found.json").write_text(json.dumps({"tried": count.total(), **count, "slowest": round(slowest, 2)}))
