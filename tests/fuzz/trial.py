"""Run many inputs in a process of its own, with little memory and little time for each."""

import faulthandler
import importlib
import inspect
import json
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
from tests.forkserver import SERVER

MEMORY = 3 * 2**30
"""Bytes on top of what the program itself takes: an image of the largest size that is decoded takes about half."""
SECONDS = 60
"""For one input, on a busy machine."""


def run_trials(module: str, kind: str, inputs: int, seed: int | None = None) -> dict[str, Any]:
    """Run so many inputs of a kind; returns how many were accepted and refused, and the seconds of the slowest.

    Raises:
        AssertionError: an input, which is named, gave a traceback, took too long or too much memory, or ended the process.
    """
    with tempfile.TemporaryDirectory() as folder:
        process = SERVER.Process(target=_run, args=(module, kind, inputs, seed, Path(folder)))
        process.start()
        process.join()
        lines = (Path(folder) / "output.txt").read_text(errors="replace").splitlines()
        output = "\n".join(line[:200] for line in lines)
        if process.exitcode:
            kept = Path(tempfile.gettempdir()) / f"coterie-fuzz-{kind}"
            failed = Path(folder) / "failed"
            (failed if failed.exists() else Path(folder) / "input").rename(kept)
            raise AssertionError(f"{kind}: exit status {process.exitcode} (input in {kept})\n{output[-8000:]}")
        assert not output, f"{kind}: the program printed: {output[:2000]}"
        found: dict[str, Any] = json.loads((Path(folder) / "found.json").read_text())
        return found


def _run(module: str, kind: str, inputs: int, seed: int | None, folder: Path) -> None:
    with (folder / "output.txt").open("w") as file:
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
    (folder / "found.json").write_text(json.dumps({"inputs": count.total(), **count, "slowest": round(slowest, 2)}))
