"""A rehearsal in a process of its own, so that its peak memory can be measured; or an earlier one.

``python -m coterie.training.profiling.rehearsal_process`` is that process: it reads settings as JSON and writes lines of JSON.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from io import TextIOWrapper
from typing import Any

import torch

from coterie.config.hardware import Runtime
from coterie.config.schema import PretrainConfig
from coterie.config.toml import from_dict, to_dict
from coterie.data.sources.open import is_from_python, open_source
from coterie.data.sources.source import ImageSource
from coterie.errors import UserError
from coterie.signals import raising
from coterie.training.build import out_of_memory
from coterie.training.custom_parts import CustomParts
from coterie.training.profiling.extrapolation import Rehearsal
from coterie.training.profiling.rehearsal import rehearse
from coterie.training.profiling.rehearsal_cache import load_rehearsal, rehearsal_key, save_rehearsal
from coterie.training.profiling.rehearsal_here import rehearse_here
from coterie.training.profiling.step_timer import TICKS

COMMAND = (sys.executable, "-P", "-m", "coterie.training.profiling.rehearsal_process")
STEP_SECONDS = 20.0


def planned_rehearsal(
    config: PretrainConfig, source: ImageSource, runtime: Runtime, custom: CustomParts | None = None
) -> Rehearsal:
    """An earlier rehearsal of such a run with its memory, or a new one in a fresh process.

    Another process cannot have images or parts that were given in Python: with those, a run is rehearsed in this one, and its
    memory is not measured.

    Args:
        config: settings of the run.
        source: its images.
        runtime: where it computes; its logger receives the progress of a new rehearsal.
        custom: parts in place of those of the settings.

    Raises:
        UserError: an error of the run itself; or the rehearsal was killed, usually because memory ran out.
    """
    if custom is not None:
        return rehearse_here(config, source, runtime, STEP_SECONDS, custom=custom)
    key = rehearsal_key(config, source, runtime)
    earlier = load_rehearsal(key)
    here = any(map(is_from_python, config.data))
    if earlier is not None and (earlier.main or here):
        return earlier
    trial = {"threads": key["threads"], "busy": key["busy"]}
    if here:
        rehearsal = rehearse_here(config, source, runtime, STEP_SECONDS, **trial)
        save_rehearsal(key, rehearsal)
        return rehearsal
    began, measured = time.monotonic(), dict[str, Any]()

    def ticks() -> Iterator[None]:
        for line in _lines({"config": to_dict(config), **trial}):
            measured.update({"ready": time.monotonic() - began} if "starts" in line else line)
            if not line:
                yield

    for _ in runtime.logger.progress(ticks(), TICKS, "rehearsing"):
        pass
    if "error" in measured:
        raise UserError(measured["error"])
    rehearsal = Rehearsal(**measured)
    save_rehearsal(key, rehearsal)
    return rehearsal


def _lines(asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The output lines of the rehearsing process."""
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    apart = {"process_group": 0}  # signals of a terminal or a scheduler are for this process, which ends that one
    with subprocess.Popen(COMMAND, **pipes, **apart, text=True, env=os.environ | paths) as child:  # type: ignore[call-overload]
        try:
            child.stdin.write(json.dumps(asked))
            child.stdin.close()
            while line := _next_line(child.stdout):
                yield json.loads(line)
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # its loader workers too
            raise
    if child.returncode == -9:
        raise UserError(
            "the rehearsal was killed, usually because memory ran out: use a smaller --batch-size or --backbone, smaller "
            "views.crops or fewer run.workers"
        )
    if child.returncode:
        raise RuntimeError(f"the rehearsal ended with status {child.returncode}")


def _next_line(pipe: TextIOWrapper) -> str:
    with raising():
        return pipe.readline()


def _write_line(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _rehearse(config: PretrainConfig, threads: Sequence[int], busy: int) -> dict[str, Any]:
    runtime = Runtime.of_run(config.run)
    ticked = 0

    def tick(share: float) -> None:
        nonlocal ticked
        while ticked < round(TICKS * share):
            ticked += 1
            _write_line({})

    source = open_source(*config.data, columns=config.columns)
    _write_line({"starts": True})
    found = asdict(rehearse(config, source, runtime, STEP_SECONDS, threads=threads, busy=busy, alone=True, tick=tick))
    del found["ready"]  # known to the process that started this one
    return found


def _main() -> None:
    asked = json.load(sys.stdin)
    config = from_dict(asked["config"])
    try:
        _write_line(_rehearse(config, asked["threads"], asked["busy"]))
    except UserError as error:
        _write_line({"error": str(error)})
    except torch.OutOfMemoryError as error:
        _write_line({"error": out_of_memory(config, Runtime.of_run(config.run), error)})
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    _main()
