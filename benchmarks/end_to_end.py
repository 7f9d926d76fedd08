"""Training from JPEG files in a folder: images a second beside the same step on views that are there, and beside lightly's.

    python benchmarks/end_to_end.py [--device cpu|cuda] [--workers N] [--batch N] [--images 4096] [--engine auto|cpu|gpu]

SwAV with a ResNet-50, 2x224 + 6x96, on the photographs of ``$COTERIE_SHARED/data/photos``, which are listed again and again
until there are ``--images``: a folder of links, so that reading is from memory for everybody. Contestants:

* ``coterie``: its loader with ``--workers`` processes, its step;
* ``coterie, views on the device``: the same step on noise that is there; the ratio says what the loader costs;
* ``lightly``: ``LightlyDataset`` and ``SwaVTransform`` in torch's ``DataLoader`` with as many workers, its modules, each crop
  by itself; on a GPU in float32 and in 16-mixed, as its benchmarks have it, while ours is as the plan chooses; on a CPU
  both in ``--precision``.

They take turns. A turn starts its workers anew and lets the first steps pass, twice as many as workers and two, so that
what the workers have prepared meanwhile is used up; then ``--steps`` are timed by the wall clock. Ratios are medians within
a repeat.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from alternating import RESULTS, SHARED, Times, command, limit_threads, machine, ratio, show_rows, write_report

THREADS = limit_threads()  # before numpy and torch come in

import torch
from contestants import CASES, TOY_CASES, Case, Lightly, Ours, again, lightly, set_up_torch, settings
from lightly.data import LightlyDataset
from lightly.transforms import SwaVTransform
from torch.utils.data import DataLoader

from coterie.config.hardware import Runtime, choose_autocast, choose_workers
from coterie.data.sources.open import open_source
from coterie.training.build import build_loader

PACKAGES = ("coterie", "lightly", "torch", "torchvision", "timm", "pillow", "numpy")
Item = TypeVar("Item")


class Clock:
    """Seconds of the steps of a turn, without its first ones."""

    def __init__(self, skipped: int, steps: int, device: torch.device) -> None:
        self.skipped, self.steps, self.device = skipped, steps, device
        self.wall = self.cpu = 0.0

    def over(self, batches: Iterator[Item]) -> Iterator[Item]:
        """The batches of a turn; the clock runs while the steps after the first are made."""
        yield from islice(batches, self.skipped)
        self._wait()
        cpu, wall = time.process_time(), time.perf_counter()
        yield from islice(batches, self.steps)
        self._wait()
        self.cpu, self.wall = time.process_time() - cpu, time.perf_counter() - wall

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def folder_of(images: int, where: Path) -> Path:
    """So many links to the photographs."""
    photos = sorted(path.resolve() for path in (SHARED / "data" / "photos").glob("*.jpg"))
    if not photos:
        sys.exit(f"no photographs in {SHARED}/data/photos: set COTERIE_SHARED to a folder that holds data/photos")
    for index in range(images):
        (where / f"{index:06d}.jpg").symlink_to(photos[index % len(photos)])
    return where


def ours_from_files(ours: Ours, folder: Path, options: argparse.Namespace) -> Callable[[Clock], None]:
    """A turn of our loader and our step."""
    config = replace(
        ours.config,
        views=replace(ours.config.views, engine=options.engine),
        run=replace(ours.config.run, workers=options.workers),
    )
    source = open_source(str(folder))

    def turn(clock: Clock) -> None:
        batches = build_loader(config, source, Runtime(ours.device, workers=choose_workers(options.workers))).batches(
            ours.done
        )
        ours.run(clock.over(batches))
        ours.done += clock.skipped + clock.steps
        batches.close()  # type: ignore[attr-defined]

    return turn


def lightly_from_files(
    theirs: Lightly, case: Case, folder: Path, batch: int, options: argparse.Namespace
) -> Callable[[Clock], None]:
    """A turn of lightly's data set, transform and step."""
    counts, sizes = zip(*case.crops, strict=True)
    dataset = LightlyDataset(str(folder), transform=SwaVTransform(crop_sizes=sizes, crop_counts=counts))

    def turn(clock: Clock) -> None:
        loader = DataLoader(dataset, batch, shuffle=True, drop_last=True, num_workers=options.workers)
        batches = iter(loader)
        theirs.steps(clock.over(views for views, _, _ in batches))
        del batches

    return turn


def turns(case: Case, folder: Path, batch: int, options: argparse.Namespace) -> dict[str, Callable[[Clock], None]]:
    """What each contestant does in a turn, by name."""
    device = torch.device(options.device)
    ours = Ours(settings(case, batch, options.precision, device), device)
    views = case.views(batch, device)
    found = {
        "coterie": ours_from_files(ours, folder, options),
        "coterie, views on the device": lambda clock: ours.steps(clock.over(again(views, clock.skipped + clock.steps))),
    }
    for precision in ["float32", "16-mixed"] if device.type == "cuda" else [options.precision]:
        theirs = lightly(case, batch, device, precision)
        found[f"lightly, {precision}"] = lightly_from_files(theirs, case, folder, batch, options)
    return found


def measure(found: dict[str, Callable[[Clock], None]], options: argparse.Namespace) -> dict[str, Times]:
    """Seconds of the timed steps, in turns."""
    times = {name: Times() for name in found}
    names = list(found)
    for repeat in range(options.repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            clock = Clock(2 * options.workers + 2, options.steps, torch.device(options.device))
            found[name](clock)
            times[name].wall.append(clock.wall)
            times[name].cpu.append(clock.cpu)
    return times


def rows(times: dict[str, Times], images: int) -> dict[str, Any]:
    """Images a second of each, and what ours are beside the others."""
    found = {}
    for name, spent in times.items():
        found[name] = spent.rounded() | {"images_per_second": 0.0}
        found[name]["images_per_second"] = round(images / found[name]["seconds"], 1)
    found["coterie"]["times_as_fast_as"] = {name: ratio(times, "coterie", name) for name in times if name != "coterie"}
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=-1, help="processes; else as many as cores to spare, at most 16")
    parser.add_argument("--engine", choices=("auto", "cpu", "gpu"), default="auto", help="who does our colors")
    parser.add_argument(
        "--precision", choices=("auto", "float32", "bfloat16"), help="else auto on a GPU, float32 on a CPU"
    )
    parser.add_argument("--batch", type=int, help="else 4 on a CPU, 128 on a GPU")
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--steps", type=int, help="that are timed in a turn; else 4 on a CPU, 60 on a GPU")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of the main process")
    parser.add_argument("--toy", action="store_true", help="tiny views and network: a trial, not a measurement")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.workers = choose_workers(options.workers)
    on_gpu = options.device.startswith("cuda")
    options.steps = options.steps or (60 if on_gpu else 4)
    options.precision = options.precision or ("auto" if on_gpu else "float32")
    options.out = options.out or RESULTS / f"end_to_end_{torch.device(options.device).type}.json"
    return options


def main() -> None:
    options = arguments()
    set_up_torch(options.device, THREADS)
    name = next(
        each for each in (TOY_CASES if options.toy else CASES) if each.startswith(("swav, toy", "swav, ResNet-50"))
    )
    case = (TOY_CASES if options.toy else CASES)[name]
    device = torch.device(options.device)
    batch = options.batch or case.batch(device)
    with tempfile.TemporaryDirectory() as where:
        folder = folder_of(options.images, Path(where))
        found = rows(measure(turns(case, folder, batch, options), options), batch * options.steps)
    report = {
        "command": command(),
        "what": "images a second from JPEG files, by the wall clock",
        "aim": "GPU: 95 % of the step on views that are there, 5 times lightly's pipeline",
        **machine(PACKAGES, options.device),
        "case": name,
        "batch": batch,
        "workers": options.workers,
        "threads": THREADS,
        "engine": options.engine,
        "precision": str(choose_autocast(options.precision, device) or torch.float32),
        "steps_a_turn": options.steps,
        "repeats": options.repeats,
        "contestants": found,
    }
    show_rows(found)
    write_report(options.out, report)


if __name__ == "__main__":
    main()
