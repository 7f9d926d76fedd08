"""What progress and callbacks cost: their share of the CPU time of a small-image step.

    python benchmarks/progress.py [--steps 60] [--batch 64]

``coterie.pretrain`` trains a ResNet-18 on 32-pixel images of noise for some steps, one thread, one loader worker (whose time
does not count), with the terminal's logger on a real terminal of 80 columns (a pseudo terminal that somebody reads). The CPU
time of the process between the ends of two steps is a step; the CPU time of the thread inside the logger's calls, and inside
what follows a step (monitor, checkpointer, callbacks, without the logger's part), is what they cost. The first steps and the
step that saves are left out. Then the logger alone: a call that draws, and one that does not.
"""

import argparse
import fcntl
import os
import pty
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from alternating import RESULTS, command, limit_threads, machine, write_report

THREADS = limit_threads()  # before torch comes in

import numpy as np
from PIL import Image

import coterie
from coterie.display.terminal import Terminal
from coterie.training.callback_runner import CallbackRunner
from coterie.types import Progress, StepResult

PACKAGES = ("coterie", "torch", "timm", "rich")
WARM_UP = 10


class Clock:
    """CPU seconds inside some functions, step by step."""

    def __init__(self) -> None:
        self.inside = dict.fromkeys(("progress", "callbacks"), 0.0)
        self.steps: list[dict[str, float]] = []
        self.at = time.process_time()

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*values: Any) -> Any:
            before, other = time.thread_time(), sum(self.inside.values())
            try:
                return function(*values)
            finally:
                nested = sum(self.inside.values()) - other  # belongs to another name
                self.inside[name] += time.thread_time() - before - nested

        return timed

    def next_step(self) -> None:
        now = time.process_time()
        self.steps.append({"step": now - self.at, **self.inside})
        self.at, self.inside = now, dict.fromkeys(self.inside, 0.0)


def on_a_terminal(columns: int) -> None:
    """Let standard error be a terminal that is read, from here on."""
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    os.dup2(there, 2)

    def read() -> None:
        while os.read(here, 65536):
            pass

    threading.Thread(target=read, daemon=True).start()


def measure_run(options: argparse.Namespace, folder: Path) -> list[dict[str, float]]:
    """Train, and return the CPU seconds of each step."""
    images = folder / "images"
    images.mkdir()
    generator = np.random.default_rng(0)
    for number in range(8 * options.batch):
        noise = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(images / f"{number:05}.png")
    clock = Clock()
    for name in ("log_step", "log_metrics"):
        setattr(Terminal, name, clock.wrap("progress", getattr(Terminal, name)))
    after_step = CallbackRunner.after_step

    def timed(runner: CallbackRunner, progress: Progress, result: StepResult) -> None:
        try:
            clock.wrap("callbacks", after_step)(runner, progress, result)
        finally:
            clock.next_step()

    CallbackRunner.after_step = timed  # type: ignore[method-assign]
    settings = {"run.workers": 1, "run.snapshots": 0, "run.threads": 1, "run.save_minutes": 600, "run.log_steps": 10}
    coterie.pretrain(
        "swav",
        images,
        out=folder / "run",
        images=options.batch * (WARM_UP + options.steps + 1),
        batch_size=options.batch,
        settings=settings,
        logger=Terminal(),
    )
    return clock.steps[WARM_UP:-1]


def measure_calls() -> dict[str, float]:
    """Microseconds of CPU time of one call of the logger that draws, and of one that does not."""
    found = {}
    for name, between in (("draws", 0.0), ("does_not_draw", 3600.0)):
        terminal, calls = Terminal(), 2000
        for step in range(10):
            terminal.log_step(Progress(step, 100, 10_000), 0.1)
        terminal.screen.seconds = between
        began = time.thread_time()
        for step in range(10, 10 + calls):
            terminal.log_step(Progress(step, 100, 10_000), 0.1)
        found[name] = round(1e6 * (time.thread_time() - began) / calls, 2)
        terminal.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--out", type=Path, default=RESULTS / "progress_cpu.json")
    options = parser.parse_args()
    on_a_terminal(80)
    calls = measure_calls()
    with TemporaryDirectory() as folder:
        steps = measure_run(options, Path(folder))
    total = {name: sum(each[name] for each in steps) for name in steps[0]}
    report = {
        "command": command(),
        "what": "share of progress and callbacks in the CPU time of a step: swav, ResNet-18, 32 pixels",
        **machine(PACKAGES),
        "threads": THREADS,
        "batch": options.batch,
        "steps": len(steps),
        "step_cpu_ms": round(1000 * total["step"] / len(steps), 2),
        "progress_percent": round(100 * total["progress"] / total["step"], 4),
        "callbacks_percent": round(100 * total["callbacks"] / total["step"], 4),
        "call_of_the_logger_cpu_us": calls,
    }
    write_report(options.out, report)
    sys.stdout.write(f"{report}\n")


if __name__ == "__main__":
    main()
