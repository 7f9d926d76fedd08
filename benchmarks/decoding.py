"""JPEG decoding on the GPU (nvJPEG, through torchvision) beside decoding in worker processes.

    python benchmarks/decoding.py [--device cpu|cuda] [--workers N] [--images 2048] [--batch 128]

Photographs of ``$COTERIE_SHARED/data/photos``, from memory, listed again and again. Contestants, in turns, by the wall clock:

* ``torchvision, cuda``: ``torchvision.io.decode_jpeg`` of a batch on the device: only decoding, so it is the most that a
  loader with nvJPEG could give. With ``--device cpu`` it is torchvision's own decoder, one image after the other.
* ``workers, decode``: ``coterie.data.decoding.decode.decode`` in ``--workers`` processes; what they decoded stays there.
* ``workers, views on the device``: the whole loader, 2x224 + 6x96, engine ``gpu``: decoding, cropping, the way to the
  device and the colors there.

nvJPEG is worth building in where the first is well above the third, since cropping and color come on top of it.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alternating import RESULTS, SHARED, alternate, command, limit_threads, machine, ratio, write_report

THREADS = limit_threads()  # before numpy and torch come in

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.io import decode_jpeg

from coterie.config.hardware import choose_workers
from coterie.data.augmentation.view_plan import Crops, ViewPlan
from coterie.data.decoding.decode import decode
from coterie.data.loading.loader import Loader

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PACKAGES = ("coterie", "torch", "torchvision", "pillow", "numpy")


class Photos:
    """A source of encoded photographs that are in memory, again and again."""

    classes: tuple[str, ...] = ()

    def __init__(self, images: int) -> None:
        self.encoded = [path.read_bytes() for path in sorted((SHARED / "data" / "photos").glob("*.jpg"))]
        if not self.encoded:
            sys.exit(f"no photographs in {SHARED}/data/photos: set COTERIE_SHARED to a folder that holds data/photos")
        self.images = images

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index: int) -> bytes:
        return self.encoded[index % len(self.encoded)]

    def name(self, index: int) -> str:
        return str(index)

    def label(self, index: int) -> int | None:
        return None


class Decoded(Dataset[int]):
    """In a worker: an index -> the pixels' sum of sizes, so that nothing is sent back."""

    def __init__(self, photos: Photos) -> None:
        self.photos = photos

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> int:
        return decode(self.photos[index]).size


def contestants(photos: Photos, options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """What each does with all images, by name."""
    device = torch.device(options.device)
    tensors = [torch.from_numpy(np.frombuffer(each, dtype=np.uint8).copy()) for each in photos.encoded]
    plan = ViewPlan((Crops(2, 224, (0.14, 1.0)), Crops(6, 96, (0.05, 0.14))), mean=MEAN, std=STD)

    def on_the_device() -> int:
        done = 0
        for first in range(0, len(photos), options.batch):
            some = [tensors[index % len(tensors)] for index in range(first, min(first + options.batch, len(photos)))]
            done += len(decode_jpeg(some, device=device))
        return done

    def in_workers() -> int:
        loader = DataLoader(Decoded(photos), batch_size=options.batch, num_workers=options.workers)
        return sum(len(sizes) for sizes in loader)

    def as_views() -> int:
        loader = Loader(
            photos, plan, batch_size=options.batch, epochs=1, seed=0, workers=options.workers, device=device, engine="gpu"
        )  # fmt: skip
        return sum(len(batch.index) for _, batch in loader.batches())

    name = f"torchvision, {device.type}"
    return {name: on_the_device, "workers, decode": in_workers, "workers, views on the device": as_views}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=-1)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.workers = choose_workers(options.workers)
    options.out = options.out or RESULTS / f"decoding_{torch.device(options.device).type}.json"
    torch.set_num_threads(THREADS)
    photos = Photos(options.images)
    found = contestants(photos, options)
    next(iter(found.values()))()
    wait = torch.cuda.synchronize if options.device.startswith("cuda") else lambda: None
    times, done = alternate(found, options.repeats, wait)
    first = next(iter(found))
    report = {
        "command": command(),
        "what": "JPEG images a second, by the wall clock, workers' start included",
        **machine(PACKAGES, options.device),
        "images": options.images,
        "different_images": len(photos.encoded),
        "batch": options.batch,
        "workers": options.workers,
        "repeats": options.repeats,
        "contestants": {
            name: each.rounded() | {"images_per_second": round(done[name] / each.rounded()["seconds"], 1)}
            for name, each in times.items()
        },
        "times_as_fast_as": {name: ratio(times, first, name) for name in found if name != first},
    }
    sys.stdout.write(json.dumps({key: report[key] for key in ("contestants", "times_as_fast_as")}) + "\n")
    write_report(options.out, report)


if __name__ == "__main__":
    main()
