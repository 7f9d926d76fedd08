"""How much memory a source of many images takes, summed over the workers that are forked from its process.

    python benchmarks/loader_memory.py [--images 1300000] [--workers 8] [--out benchmarks/results/loader_memory.json]

A text list of made-up names (the files are not read) is opened as a source. Workers are forked; each looks up the name,
the path and the label of images at random and collects garbage, as a loader's workers do over an epoch. What is summed
over all processes is the proportional set size (PSS: a page shared by n processes counts 1/n in each). Growth is the
difference from a run over a source of 10,000 images, each in a fresh process, and is reported per image, the bytes of the
names taken off; ``coterie_loader`` is the whole training loader, torch's worker processes included. Beside it, the same
with a Python list of (path, label), as torchvision's ImageFolder keeps.
"""

import argparse
import gc
import os
import platform
import random
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import numpy as np
from alternating import RESULTS, processor, write_report

AIM = 100  # bytes an image above its name
SMALL = 10_000


def write_list(path: Path, images: int) -> int:
    """A list in the manner of ImageNet, 1000 classes; returns the bytes of all names."""
    names = (f"train/n{index % 1000:08d}/n{index % 1000:08d}_{index:08d}.JPEG" for index in range(images))
    with path.open("w") as file:
        file.writelines(f"{name}\n" for name in names)
    return path.stat().st_size - images


def open_coterie(path: Path) -> Any:
    from coterie.data.sources.open import open_source

    return open_source(str(path))


def touch_coterie(source: Any, index: int) -> None:
    from coterie.errors import BadImage

    source.name(index)
    source.label(index)
    try:
        source[index]
    except BadImage:  # the file is not there: its path has been made, which is what counts
        return


def open_python_list(path: Path) -> Any:
    lines = path.read_text().split("\n")[:-1]
    classes = {name: number for number, name in enumerate(sorted({line.split("/")[1] for line in lines}))}
    return [(f"{path.parent}/{line}", classes[line.split("/")[1]]) for line in lines]


def touch_python_list(source: Any, index: int) -> None:
    path, label = source[index]
    hash((path, label))


class Small:
    """A source whose names are looked up, and whose images are all the same small one."""

    classes: tuple[str, ...] = ()

    def __init__(self, source: Any) -> None:
        self.source = source
        self.image = np.zeros((8, 8, 3), np.uint8)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        touch_coterie(self.source, index)
        return self.image

    def name(self, index: int) -> str:
        return self.source.name(index)

    def label(self, index: int) -> int | None:
        return None


def measure_loader(kind: str, path: Path, workers: int) -> dict[str, int]:
    """As ``measure``, of the whole training loader in its second epoch (the order of an epoch is held too)."""
    from coterie.data.augmentation.view_plan import Crops, ViewPlan
    from coterie.data.loading.loader import Loader

    source = Small(open_coterie(path))
    opened = pss()
    plan = ViewPlan(crops=(Crops(2, 8, (0.5, 1.0)),), mean=(0.5,) * 3, std=(0.5,) * 3)
    steps = 25 * workers + 100  # as many for the small source, so that the workers have grown as warm
    epochs = 2 + steps // (len(source) // 500)
    loader = Loader(source, plan, batch_size=500, epochs=epochs, seed=0, workers=workers)
    start = max(0, loader.steps_per_epoch - 25 * workers)  # over the end of an epoch: the order of the next is made too
    total = 0
    for progress, _ in loader.batches(start):
        if progress.step - start == steps - 1:
            total = sum(pss(process.pid) for process in active_children()) + pss()
            break
    return {"images": len(source), "opened": opened, "with_workers": total}


KINDS: dict[str, tuple[Callable[[Path], Any], Callable[[Any, int], None]]] = {
    "coterie": (open_coterie, touch_coterie),
    "python_list": (open_python_list, touch_python_list),
}


def pss(process: int | str = "self") -> int:
    """Bytes of a process, its share of what it shares with others."""
    rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
    return next(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))


def work(source: Any, touch: Callable[[Any, int], None], seed: int, finished: Any, measured: Any, results: Any) -> None:
    gc.collect()
    generator = random.Random(seed)
    for _ in range(len(source)):
        touch(source, generator.randrange(len(source)))
    gc.collect()
    finished.wait()
    results.put(pss())
    measured.wait()  # none ends before all have been measured: their shares would change


def measure(kind: str, path: Path, workers: int) -> dict[str, int]:
    """PSS of this process after opening, and of it and all workers after their work."""
    opener, touch = KINDS[kind]
    source = opener(path)
    gc.collect()
    opened = pss()
    context = get_context("fork")
    finished, measured, results = context.Barrier(workers + 1), context.Barrier(workers + 1), context.Queue()
    processes = [
        context.Process(target=work, args=(source, touch, seed, finished, measured, results)) for seed in range(workers)
    ]
    for process in processes:
        process.start()
    finished.wait()
    total = pss() + sum(results.get() for _ in processes)
    measured.wait()
    for process in processes:
        process.join()
    return {"images": len(source), "opened": opened, "with_workers": total}


def growth(kind: str, images: int, workers: int) -> dict[str, float]:
    """Bytes an image that a large source takes more than a small one."""
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in (SMALL, images):
            path = Path(folder) / f"{count}.txt"
            names = write_list(path, count)
            with ProcessPoolExecutor(1, get_context("spawn")) as fresh:  # nothing is left of the one before
                job = measure_loader if kind == "coterie_loader" else measure
                figures[count] = fresh.submit(job, kind, path, workers).result()
    grown = {key: figures[images][key] - figures[SMALL][key] for key in ("opened", "with_workers")}
    return {
        "name_bytes_per_image": names / images,
        "bytes_per_image_after_opening": grown["opened"] / images,
        "bytes_per_image_with_workers": grown["with_workers"] / images,
        "bytes_per_image_above_names": (grown["with_workers"] - names) / images,
        "total_mib_with_workers": figures[images]["with_workers"] / 2**20,
    }


def hardware() -> dict[str, object]:
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "coterie": version("coterie"),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Memory of a source of many images, summed over forked workers.")
    parser.add_argument("--images", type=int, default=1_300_000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--kinds", default=",".join([*KINDS, "coterie_loader"]))
    parser.add_argument("--out", type=Path, default=RESULTS / "loader_memory.json")
    given = parser.parse_args()
    found = {kind: growth(kind, given.images, given.workers) for kind in given.kinds.split(",")}
    result = {
        "what": "growth of the summed PSS of a source and its forked workers, per image",
        "command": f"python benchmarks/loader_memory.py --images {given.images} --workers {given.workers}",
        "aim": f"at most {AIM} bytes an image above the bytes of its name",
        "images": given.images,
        "workers": given.workers,
        "source": found,
        "hardware": hardware(),
    }
    write_report(given.out, result)
    for kind, figures in found.items():
        print(f"{kind}: {figures['bytes_per_image_above_names']:.1f} bytes an image above the name (aim: {AIM})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
