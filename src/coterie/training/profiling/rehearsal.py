"""Trains a few real steps of a run in a separate process, so that its peak memory can be measured.

``python -m coterie.training.profiling.rehearsal`` is that process: it reads settings as JSON and writes lines of JSON.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import torch

from coterie.config.hardware import Runtime
from coterie.config.schema import PretrainConfig
from coterie.config.toml import from_dict
from coterie.data.loading.center_crop import center_crop_batches
from coterie.data.sources.open import open_source
from coterie.data.sources.source import ImageSource, Subset, sample_indices
from coterie.errors import UserError
from coterie.grouping.chunks import CHUNK_ELEMENTS
from coterie.grouping.objective import Objective
from coterie.training.build import build_loader, build_parts, out_of_memory
from coterie.training.loop import fit
from coterie.training.monitor import Monitor
from coterie.training.student import preprocessing_of
from coterie.types import Batch, Progress

STEP_SECONDS, MOST_STEPS, WARM_UP = 20.0, 60, 4
FILLING_SECONDS, MOST_FILLING = 5.0, 20
EMBEDDED_IMAGES = 256
TICKS = 20
"""Into how many ticks the progress of a rehearsal or a profile is divided."""


def _write_line(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


class StepTimer:
    """Passes on batches until time is up or there were enough, and times what is done with each."""

    def __init__(self, seconds: float, most: int, device: torch.device) -> None:
        """Pass on batches for so many seconds, and at most so many."""
        self.seconds, self.most, self.device = seconds, most, device
        self.times: list[float] = []
        self.workers = 0

    def over(self, batches: Iterator[tuple[Progress, Batch]], ticks: int = 0) -> Iterator[tuple[Progress, Batch]]:
        """Pass on the batches, and write an empty line ``ticks`` times on the way."""
        began, ticked, spent = time.perf_counter(), 0, 0.0
        for item in batches:
            yield item
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            elapsed = time.perf_counter() - began
            self.times.append(elapsed - spent)
            spent = elapsed
            share = max(len(self.times) / self.most, spent / self.seconds)
            while ticked < ticks * min(1.0, share):
                ticked += 1
                _write_line({})
            if len(self.times) % 5 == 1 or share >= 1:
                private = sum(private_bytes(child.pid) for child in active_children() if child.pid)
                self.workers = max(self.workers, private)
            if share >= 1:
                break

    @property
    def typical(self) -> float:
        """Mean time without the warm-up; not the median, because what delays some steps here delays some of the run's too."""
        times = self.times[min(WARM_UP, len(self.times) // 2) :] or [0.0]
        return sum(times) / len(times)

    @property
    def first(self) -> float:
        """By how much the first step was slower, while workers started."""
        return max(0.0, self.times[0] - self.typical) if self.times else 0.0


def rehearse(config: PretrainConfig, source: ImageSource) -> dict[str, Any]:
    """Train some steps of a run in this process.

    Returns:
        Seconds per step, filling batch, refresh and embedded image, and bytes of memory.
    """
    runtime = Runtime.choose(config.run.device, config.run.precision, config.run.workers)
    device = runtime.device
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    longer = replace(config, epochs=config.epochs + MOST_STEPS, images=None)  # enough steps, always
    loader = build_loader(longer, source, runtime)
    parts = build_parts(config, device, images=len(source))
    rows, rate, log_steps = config.assigned_rows, config.learning_rate, config.run.log_steps
    monitor = Monitor(config.group_counts, rows, rate, log_steps=log_steps, write=lambda _: None, device=device)
    filling, steps = StepTimer(FILLING_SECONDS, MOST_FILLING, device), StepTimer(STEP_SECONDS, MOST_STEPS, device)
    refresh = 0.0

    def batches() -> Iterator[tuple[Progress, Batch]]:
        nonlocal refresh
        refresh = simulate_full_memory(parts.objective, config, len(source))
        yield from steps.over(loader.batches(1), TICKS)  # a refresh comes before step 0

    _write_line({"ready": True})
    fit(
        parts.student,
        parts.objective,
        monitor.timed(batches()),
        config.optimizer.build(parts.student),
        config.learning_rate.at,
        fill_batches=lambda: filling.over(loader.fill_batches()),
        autocast=runtime.autocast,
        clip_grad_norm=config.clip_grad_norm,
        seed=config.seed,
        on_step_end=[monitor.on_step_end],
    )
    sample = Subset(source, sample_indices(EMBEDDED_IMAGES, source))
    began = time.perf_counter()
    network = parts.student.encoder.backbone.eval()
    with torch.inference_mode():
        for batch in center_crop_batches(sample, **asdict(preprocessing_of(config)), device=device):
            network(batch.views[0])
    return {
        "embedding": (time.perf_counter() - began) / len(sample),
        "first": filling.first + steps.first,
        "filling": filling.typical,
        "refresh": refresh,
        "step": steps.typical,
        "steps": len(steps.times),
        "main": proc_status_bytes(os.getpid(), "VmHWM"),
        "workers": max(filling.workers, steps.workers),
        "device": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0,
    }


def simulate_full_memory(objective: Any, config: PretrainConfig, images: int) -> float:
    """Fill the memory to its full size with random rows.

    A refresh is timed on at most one chunk of scores and scaled to all rows, because k-means and labeling are linear in the
    number of rows. Labels that are iterated until they converge (SeLa) may need more rounds later than with random rows.

    Returns:
        Seconds that a refresh of the full memory takes; 0 if there is none.
    """
    memory = objective.memory if isinstance(objective, Objective) else None
    if memory is None or memory.start_epoch >= config.epochs:
        return 0.0
    memory.rows.normal_()
    memory.rows /= memory.rows.norm(dim=-1, keepdim=True)
    memory.index.copy_(torch.arange(memory.length) % images)
    memory.pushed = memory.length
    if objective.refresh_rule is None:
        return 0.0
    groups = max(config.group_counts)
    batches = -(-max(2 * groups, CHUNK_ELEMENTS // groups) // memory.share)  # a refresh takes whole batches
    memory.pushed = min(memory.length, batches * memory.share)
    began = time.perf_counter()
    objective.refresh(Progress(0, 1, 1))
    seconds = time.perf_counter() - began
    if objective.labels is not None:
        objective.labels.clamp_(min=0)  # images outside that chunk have no label yet
    objective.refresh_rule = replace(
        objective.refresh_rule, every_epochs=sys.maxsize, every_steps=0
    )  # none from now on
    scale, memory.pushed = memory.length / memory.pushed, memory.length
    return seconds * scale


def proc_status_bytes(process: int, name: str) -> int:
    """The bytes in a line of ``/proc/PID/status`` or of ``smaps_rollup``; VmHWM is the peak of resident memory.

    Raises:
        KeyError: neither file has such a line.
    """
    for file in ("status", "smaps_rollup"):
        for line in Path(f"/proc/{process}/{file}").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    raise KeyError(name)


def private_bytes(process: int) -> int:
    """The bytes that a process does not share; pages that neither side has written since a fork are not counted."""
    return proc_status_bytes(process, "Private_Clean") + proc_status_bytes(process, "Private_Dirty")


def _main() -> None:
    config = from_dict(json.load(sys.stdin))
    try:
        _write_line(rehearse(config, open_source(*config.data)))
    except UserError as error:
        _write_line({"error": str(error)})
    except torch.OutOfMemoryError as error:
        _write_line({"error": out_of_memory(config, Runtime.choose(config.run.device, config.run.precision), error)})
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    _main()
