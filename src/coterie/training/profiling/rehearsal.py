"""A few real steps of a run, in a process of their own, so that its peak memory is its own.

``python -m coterie.training.profiling.rehearsal`` is that process: settings come in as JSON, lines of JSON go out.
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

import numpy as np
import torch

from coterie.config.hardware import Runtime
from coterie.config.schema import PretrainConfig
from coterie.config.toml import from_dict
from coterie.data.loading.center_crop import center_crop_batches
from coterie.data.sources.open import open_source
from coterie.data.sources.source import ImageSource, Subset
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
EMBEDDED = 256
TICKS = 20


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


class StepTimer:
    """Lets batches through until the time is over or there were enough, and times what is done with each."""

    def __init__(self, seconds: float, most: int, device: torch.device) -> None:
        self.seconds, self.most, self.device = seconds, most, device
        self.times: list[float] = []
        self.workers = 0

    def over(self, batches: Iterator[tuple[Progress, Batch]], ticks: int = 0) -> Iterator[tuple[Progress, Batch]]:
        """The batches as they are; ``ticks`` signs of life are given on the way."""
        began, said, spent = time.perf_counter(), 0, 0.0
        for item in batches:
            yield item
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            elapsed = time.perf_counter() - began
            self.times.append(elapsed - spent)
            spent = elapsed
            share = max(len(self.times) / self.most, spent / self.seconds)
            while said < ticks * min(1.0, share):
                said += 1
                _say({})
            if len(self.times) % 5 == 1 or share >= 1:
                held = sum(private_bytes(child.pid) for child in active_children() if child.pid)
                self.workers = max(self.workers, held)
            if share >= 1:
                break

    @property
    def typical(self) -> float:
        """Mean without the first ones: what delays a step now and then here will delay the run's."""
        times = self.times[min(WARM_UP, len(self.times) // 2) :] or [0.0]
        return sum(times) / len(times)

    @property
    def first(self) -> float:
        """What the first took longer, while workers started."""
        return max(0.0, self.times[0] - self.typical) if self.times else 0.0


def rehearse(config: PretrainConfig, source: ImageSource) -> dict[str, Any]:
    """Some steps of a run in this process: seconds of a step, a filling batch, a refresh and an embedding, and bytes."""
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

    _say({"ready": True})
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
    some = Subset(source, np.linspace(0, len(source) - 1, min(EMBEDDED, len(source))).astype(np.int64))
    began = time.perf_counter()
    network = parts.student.encoder.backbone.eval()
    with torch.inference_mode():
        for batch in center_crop_batches(some, **asdict(preprocessing_of(config)), device=device):
            network(batch.views[0])
    return {
        "embedding": (time.perf_counter() - began) / len(some),
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
    """Fill the memory with random rows, as large as it will be; returns the seconds that a refresh of it takes.

    At most one chunk of scores is looked over, and the time taken in proportion to the rows: k-means and labeling are
    linear in them. Labels that are iterated until they settle (SeLa) may need more rounds later than with random rows.
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
    batches = -(-max(2 * groups, CHUNK_ELEMENTS // groups) // memory.share)  # it is looked over in whole ones
    memory.pushed = min(memory.length, batches * memory.share)
    began = time.perf_counter()
    objective.refresh(Progress(0, 1, 1))
    seconds = time.perf_counter() - began
    if objective.labels is not None:
        objective.labels.clamp_(min=0)  # images that were not looked over have none
    objective.refresh_rule = replace(objective.refresh_rule, every_epochs=sys.maxsize, every_steps=0)  # none in a step
    scale, memory.pushed = memory.length / memory.pushed, memory.length
    return seconds * scale


def proc_status_bytes(process: int, name: str) -> int:
    """Bytes of a line of ``/proc/PID/status`` or of ``smaps_rollup``; VmHWM is the most that was resident at once."""
    for file in ("status", "smaps_rollup"):
        for line in Path(f"/proc/{process}/{file}").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    raise KeyError(name)


def private_bytes(process: int) -> int:
    """Bytes that a process shares with no other; after a fork the pages that neither has written since are not counted."""
    return proc_status_bytes(process, "Private_Clean") + proc_status_bytes(process, "Private_Dirty")


def _main() -> None:
    config = from_dict(json.load(sys.stdin))
    try:
        _say(rehearse(config, open_source(*config.data)))
    except UserError as error:
        _say({"error": str(error)})
    except torch.OutOfMemoryError as error:
        _say({"error": out_of_memory(config, Runtime.choose(config.run.device, config.run.precision), error)})
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    _main()
