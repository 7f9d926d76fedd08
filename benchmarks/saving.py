"""What it costs to save and to resume a run whose state is large: ResNet-50 and a memory of an epoch of ImageNet.

    python benchmarks/saving.py [--rows 1281167] [--saves 3] [--resumes 2] [--folder DIR] [--device cpu|cuda]

The published DeepCluster-v2: three heads of 3,000 groups, two rows of 128 numbers kept of each of ``--rows`` images, three
labels of each, LARS. Rows and labels are made up; steps are real ones, at a small batch of small views, and the product's own
``fit``, ``Checkpointer`` and checkpoint do the rest, in ``--folder`` (which must be on the disk that is meant).

Saving: how long a step waits for it (state collected, checked and copied to the host's memory), how long the thread then
writes (zip archive with its CRC, flush, checksum of what was written), what a step takes meanwhile, the most memory above
what the run holds. Before each save as many bytes are written in blocks of 16 MiB and flushed, which is what the disk can do.

Resuming, each in a fresh process, the file dropped from the system's cache first (``posix_fadvise``; whether the disk's own
cache holds it is not known): checksum, reading, taking over, and the first step.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from alternating import RESULTS, command, limit_threads, machine, write_report

THREADS = limit_threads()  # before torch comes in

import torch

from coterie.config.facts import Facts
from coterie.config.hardware import choose_autocast
from coterie.config.schema import PretrainConfig
from coterie.data.augmentation.view_plan import Crops
from coterie.exporting.backbone_file import save_backbone
from coterie.methods.planner import Planner
from coterie.methods.presets import METHODS
from coterie.training import checkpoint_io
from coterie.training.build import build_parts
from coterie.training.checkpoint_schedule import Checkpointer
from coterie.training.loop import fit
from coterie.training.monitor import Monitor
from coterie.training.profiling.process_memory import proc_status_bytes
from coterie.training.profiling.rehearsal import simulate_full_memory
from coterie.training.run_state import RunState
from coterie.training.student import preprocessing_of
from coterie.types import Batch, Progress

PACKAGES = ("coterie", "torch", "timm")
EPOCH = 10_000_000
"""Steps of an epoch that never ends, so that nothing is refreshed."""
BATCH, BLOCK, MIB = 4, 2**24, 2**20
QUIET_STEPS = 3
MOST_STEPS = 200


def settings(options: argparse.Namespace) -> PretrainConfig:
    """The published preset; views are smaller, which changes nothing that is saved."""
    config = METHODS["deepcluster_v2_imagenet_800"](Planner(Facts(options.rows, 375), batch_size=BATCH))
    crops = tuple(Crops(each.count, 64 if each.size > 96 else 32, each.scale) for each in config.views.crops)
    config = replace(config, views=replace(config.views, crops=crops))
    if options.toy:
        groups: Any = replace(config.groups, counts=(20, 20, 20))  # type: ignore[type-var]
        backbone = replace(config.backbone, name="resnet18", width=0.125)
        config = replace(config, groups=groups, backbone=backbone)
    return config


class Run:
    """The parts of a run and its saver; steps are made of noise."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.config, self.device, self.folder = settings(options), torch.device(options.device), folder
        self.parts = build_parts(self.config, self.device, images=options.rows)
        self.optimizer = self.config.optimizer.build(self.parts.student)
        counts, rows, rate = self.config.group_counts, self.config.assigned_rows, self.config.learning_rate
        self.monitor = Monitor(counts, rows, rate, log_steps=50, write=lambda _: None, device=self.device)
        kept = {"student": self.parts.student, "objective": self.parts.objective, "optimizer": self.optimizer}
        self.saver = Checkpointer(
            folder / "checkpoint",
            kept | {"monitor": self.monitor},
            self.monitor,
            RunState(THREADS, options.rows),
            steps=0,
            minutes=1e9,
            also=self._weights,
        )
        self.done = 1  # a refresh comes before step 0

    def _weights(self, student: dict[str, torch.Tensor]) -> Callable[[], None]:
        """As a run does beside its checkpoint: the backbone's weights."""
        inside, config, look = "encoder.backbone.", self.config, preprocessing_of(self.config)
        weights = {name.removeprefix(inside): each for name, each in student.items() if name.startswith(inside)}
        file = self.folder / "model.safetensors"
        return lambda: save_backbone(file, weights, config.backbone, look.size, look.mean, look.std)

    def steps(self, count: int, *observers: Any) -> None:
        """So many steps."""
        fit(
            self.parts.student,
            self.parts.objective,
            self.monitor.timed(self._batches(count)),
            self.optimizer,
            self.config.learning_rate.at,
            autocast=choose_autocast(self.config.run.precision, self.device),
            clip_grad_norm=self.config.clip_grad_norm,
            seed=self.config.seed,
            on_step_end=[self.monitor.on_step_end, *observers],
        )

    def _batches(self, count: int) -> Iterator[tuple[Progress, Batch]]:
        generator, sizes = torch.Generator().manual_seed(self.done), self.config.views.sizes
        for _ in range(count):
            views = [torch.randn(BATCH, 3, side, side, generator=generator).to(self.device) for side in sizes]
            index = torch.arange(BATCH, device=self.device)
            yield Progress(self.done, EPOCH, EPOCH * 10), Batch(index, dict(enumerate(views)))
            self.done += 1


class Timed:
    """A function, and the seconds of each of its calls: by the wall's clock, and of the processor by the thread that calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.seconds, self.cpu = function, list[float](), list[float]()

    def __call__(self, *given: Any, **named: Any) -> Any:
        began, cpu = time.perf_counter(), time.thread_time()
        try:
            return self.function(*given, **named)
        finally:
            self.cpu.append(time.thread_time() - cpu)
            self.seconds.append(time.perf_counter() - began)


def saving(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Saves in the middle of steps, each after a plain write of as much."""
    torch.set_num_threads(THREADS)
    run = Run(options, folder)
    simulate_full_memory(run.parts.objective, run.config, options.rows)
    run.saver._write = writing = Timed(run.saver._write)  # type: ignore[method-assign]  # what the thread does
    checkpoint_io._digest = digest = Timed(checkpoint_io._digest)
    saver = Timed(run.saver.on_step_end)
    quiet, busy, plain, more = list[float](), list[float](), list[float](), list[int]()

    def after_steps(tally: list[float], until: Callable[[], bool], most: int) -> None:
        while len(tally) < most and not until():
            began = time.perf_counter()
            run.steps(1)
            tally.append(time.perf_counter() - began)

    run.steps(1)  # the optimizer's state is made, and memory is found
    size = sum(tensor.numel() * tensor.element_size() for tensor in _tensors(run))
    for number in range(options.saves):
        plain.append(plain_write(folder / "plain", size))
        after_steps(quiet, lambda: False, (number + 1) * QUIET_STEPS)
        run.saver.steps = 1
        held = _most_memory_from_now_on()
        run.steps(1, saver)
        run.saver.steps = 0
        seconds = len(writing.seconds)
        after_steps(busy, lambda seconds=seconds: len(writing.seconds) > seconds, MOST_STEPS)  # type: ignore[misc]
        run.saver.settle()
        more.append(proc_status_bytes(os.getpid(), "VmHWM") - held)
    path = checkpoint_io.list_checkpoints(folder / "checkpoint")[0][1]
    written = path.stat().st_size + (folder / "model.safetensors").stat().st_size
    return {
        "state_mib": _mib(size),
        "checkpoint_mib": _mib(path.stat().st_size),
        "written_mib": _mib(written),
        "held_mib": _mib(held),
        "more_while_saving_mib": _mib(max(more)),
        "a_step_waits": _seconds(saver.seconds),
        "a_step_waits_cpu": _seconds(saver.cpu),
        "the_thread_writes": _seconds(writing.seconds),
        "the_thread_writes_cpu": _seconds(writing.cpu),
        "of_it_checksum": _seconds(digest.seconds),
        "plain_write_and_flush": _seconds(plain),
        "writes_mib_a_second": round(_mib(written) / statistics.median(writing.seconds), 1),
        "plain_mib_a_second": round(_mib(size) / statistics.median(plain), 1),
        "step": _seconds(quiet),
        "step_while_the_thread_writes": _seconds(busy),
    }


def resuming(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """From a process that has just begun to its first step."""
    began = time.perf_counter()
    torch.set_num_threads(THREADS)
    run = Run(options, folder)
    built = time.perf_counter() - began
    _drop_from_cache(checkpoint_io.list_checkpoints(folder / "checkpoint")[0][1])
    checkpoint_io._digest = digest = Timed(checkpoint_io._digest)
    checkpoint_io.read_torch_file = read = Timed(checkpoint_io.read_torch_file)
    held, began = _most_memory_from_now_on(), time.perf_counter()
    run.done, _ = run.saver.resume()
    resumed = time.perf_counter() - began
    more = proc_status_bytes(os.getpid(), "VmHWM") - held
    began = time.perf_counter()
    run.steps(1)
    return {
        "built": round(built, 3),
        "resumed": round(resumed, 3),
        "of_it_checksum": round(sum(digest.seconds), 3),
        "of_it_reading": round(sum(read.seconds), 3),
        "first_step": round(time.perf_counter() - began, 3),
        "held_mib": _mib(held),
        "more_while_resuming_mib": _mib(more),
    }


def plain_write(path: Path, size: int) -> float:
    """Seconds that the disk takes for so many bytes, flushed."""
    block, began = os.urandom(BLOCK), time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for start in range(0, size, BLOCK):
            file.write(block[: size - start])
        os.fsync(file.fileno())
    seconds = time.perf_counter() - began
    path.unlink()
    return seconds


def _tensors(run: Run) -> list[torch.Tensor]:
    states = (part.state_dict() for part in (run.parts.student, run.parts.objective, run.optimizer))
    return [
        leaf for state in states for leaf in torch.utils._pytree.tree_leaves(state) if isinstance(leaf, torch.Tensor)
    ]


def _most_memory_from_now_on() -> int:
    """Bytes that this process holds; the system's note of its peak begins anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return proc_status_bytes(os.getpid(), "VmRSS")


def _drop_from_cache(path: Path) -> None:
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _mib(size: int) -> float:
    return round(size / MIB, 1)


def _seconds(times: list[float]) -> dict[str, Any]:
    return {"median": round(statistics.median(times), 3), "each": [round(each, 3) for each in times]} if times else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_281_167)
    parser.add_argument("--saves", type=int, default=3)
    parser.add_argument("--resumes", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="on the disk that is meant; else the one for temporary files")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--toy", action="store_true", help="a narrow network: a trial, not a measurement")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    out = options.out or RESULTS / f"saving_{torch.device(options.device).type}.json"
    report: dict[str, Any] = {
        "command": command(),
        "what": "saving and resuming ResNet-50 with a memory and labels of an epoch of ImageNet (DeepCluster-v2)",
        **machine(PACKAGES, options.device),
        "threads": THREADS,
        "rows": options.rows,
        "seeds": {"weights": 0, "views": "the step's number"},
    }
    folder = Path(mkdtemp(dir=options.folder, prefix="coterie-saving-"))
    try:
        for what, measure, times in (("saving", saving, 1), ("resuming", resuming, options.resumes)):
            found = []
            for _ in range(times):
                with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
                    found.append(fresh.submit(measure, options, folder).result())
            report[what] = found if what == "resuming" else found[0]
            sys.stdout.write(json.dumps({what: report[what]}, indent=1) + "\n")
            sys.stdout.flush()
        write_report(out, report)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
