"""Images a second on one core, from encoded bytes to normalised batches of views: ours beside what others use.

    python benchmarks/loader.py [--repeats 7] [--out benchmarks/results/loader.json]

Contestants take turns on slices of 20 images, so that whatever else the machine does meets them alike. The figure is
images per second of this process's CPU time; the wall clock's stands beside it. A ratio is the median over the repeats
of the ratio within a repeat. Each contestant decodes an image once for all of its crops, and ends with float32 batches.
"""

import argparse
import io
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # before numpy and torch come in

import numpy as np
import pyarrow.parquet as pq
import simplejpeg
import torch
from lightly.transforms import SwaVTransform
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision import transforms as T

from coterie.data.cpu import apply_batch, normalize
from coterie.data.decode import decode
from coterie.data.views import Crops, ViewPlan

SHARED = Path(os.environ.get("COTERIE_SHARED", Path(__file__).parents[2] / "shared"))
MEAN, STD = (0.485, 0.456, 0.406), (0.228, 0.224, 0.225)
SLICE = 20
SEED = 0

Contestant = Callable[[list[bytes], int], list[Tensor]]  # bytes of some images and the first one's index -> views
CASES = {
    "photos, 2x224 + 6x96": (Crops(2, 224, (0.14, 1.0)), Crops(6, 96, (0.05, 0.14))),
    "CIFAR-10, 2x32 + 4x18": (Crops(2, 32, (0.14, 1.0)), Crops(4, 18, (0.05, 0.14))),
}


def ours(crops: tuple[Crops, ...], decoder: Callable[[bytes], np.ndarray]) -> Contestant:
    plan = ViewPlan(crops, mean=MEAN, std=STD)

    def views(encoded: list[bytes], first: int) -> list[Tensor]:
        draws = plan.draw(SEED, 0, np.arange(first, first + len(encoded)))
        made = apply_batch((decoder(data) for data in encoded), plan, draws, range(plan.num_views))
        stacked = [torch.from_numpy(np.stack(view)) for view in made]
        return [normalize(view, MEAN, STD) for view in stacked]

    return views


class PillowBlur:
    def __call__(self, image: Image.Image) -> Image.Image:
        if random.random() >= 0.5:
            return image
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))


def torchvision_on_pillow(crops: tuple[Crops, ...]) -> Contestant:
    """The usual recipe, as in SwAV's own code: a chain of transforms for each view."""
    chains = [
        T.Compose(
            [
                T.RandomResizedCrop(group.size, scale=group.scale),
                T.RandomHorizontalFlip(p=0.5),
                T.RandomApply([T.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
                T.RandomGrayscale(p=0.2),
                PillowBlur(),
                T.ToTensor(),
                T.Normalize(mean=MEAN, std=STD),
            ]
        )
        for group in crops
        for _ in range(group.count)
    ]

    def views(encoded: list[bytes], first: int) -> list[Tensor]:
        rows = []
        for data in encoded:
            image = Image.open(io.BytesIO(data)).convert("RGB")
            rows.append([chain(image) for chain in chains])
        return [torch.stack(view) for view in zip(*rows, strict=True)]

    return views


def lightly(crops: tuple[Crops, ...]) -> Contestant:
    large, small = crops
    transform = SwaVTransform(
        crop_sizes=(large.size, small.size),
        crop_counts=(large.count, small.count),
        crop_min_scales=(large.scale[0], small.scale[0]),
        crop_max_scales=(large.scale[1], small.scale[1]),
        sigmas=(0.1, 2.0),
        normalize={"mean": list(MEAN), "std": list(STD)},
    )

    def views(encoded: list[bytes], first: int) -> list[Tensor]:
        rows = [transform(Image.open(io.BytesIO(data)).convert("RGB")) for data in encoded]
        return [torch.stack(view) for view in zip(*rows, strict=True)]

    return views


def contestants(crops: tuple[Crops, ...]) -> dict[str, Contestant]:
    found = {"coterie": ours(crops, decode)}
    if crops[0].size == 224:  # CIFAR's images are PNG
        found["coterie, simplejpeg"] = ours(crops, simplejpeg.decode_jpeg)
    return found | {"torchvision on Pillow": torchvision_on_pillow(crops), "lightly": lightly(crops)}


def measure(encoded: list[bytes], found: dict[str, Contestant], repeats: int) -> dict[str, dict[str, list[float]]]:
    """Images per second of each contestant in each repeat, by CPU time and by the wall clock."""
    rates: dict[str, dict[str, list[float]]] = {name: {"cpu": [], "wall": []} for name in found}
    for make in found.values():
        make(encoded[:SLICE], 0)
    for _ in range(repeats):
        spent = {name: [0.0, 0.0] for name in found}
        for turn, first in enumerate(range(0, len(encoded), SLICE)):
            names = list(found)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                cpu, wall = time.process_time(), time.perf_counter()
                found[name](encoded[first : first + SLICE], first)
                spent[name][0] += time.process_time() - cpu
                spent[name][1] += time.perf_counter() - wall
        for name, (cpu, wall) in spent.items():
            rates[name]["cpu"].append(len(encoded) / cpu)
            rates[name]["wall"].append(len(encoded) / wall)
    return rates


def summary(rates: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    def ratio(name: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(rates[name]["cpu"], rates[other]["cpu"], strict=True))

    return {
        name: {
            "images_per_second_cpu": round(statistics.median(rate["cpu"]), 1),
            "images_per_second_wall": round(statistics.median(rate["wall"]), 1),
            "milliseconds_an_image_cpu": round(1e3 / statistics.median(rate["cpu"]), 3),
            "times_torchvision_on_pillow": round(ratio(name, "torchvision on Pillow"), 2),
            "times_lightly": round(ratio(name, "lightly"), 2),
        }
        for name, rate in rates.items()
    }


def stages(encoded: list[bytes], crops: tuple[Crops, ...]) -> dict[str, float]:
    """Where our own time goes: CPU milliseconds an image."""
    plan = ViewPlan(crops, mean=MEAN, std=STD)
    spent = dict.fromkeys(("decode", "draw", "apply", "stack", "normalize"), 0.0)
    for first in range(0, len(encoded), SLICE):
        clock = [time.process_time()]
        images = [decode(data) for data in encoded[first : first + SLICE]]
        clock.append(time.process_time())
        draws = plan.draw(SEED, 0, np.arange(first, first + len(images)))
        clock.append(time.process_time())
        made = apply_batch(images, plan, draws, range(plan.num_views))
        clock.append(time.process_time())
        stacked = [torch.from_numpy(np.stack(view)) for view in made]
        clock.append(time.process_time())
        for view in stacked:
            normalize(view, MEAN, STD)
        clock.append(time.process_time())
        for name, start, end in zip(spent, clock, clock[1:], strict=False):
            spent[name] += end - start
    return {name: round(1e3 * seconds / len(encoded), 3) for name, seconds in spent.items()}


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "loader.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(SEED)
    torch.manual_seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002 -- lightly's blur draws from it
    photos = [path.read_bytes() for path in sorted((SHARED / "data" / "photos").glob("*.jpg"))]
    table = pq.read_table(SHARED / "data" / "cifar10" / "test.parquet", columns=["image"]).slice(0, 1000)
    images = {"photos, 2x224 + 6x96": photos, "CIFAR-10, 2x32 + 4x18": [i["bytes"] for i in table["image"].to_pylist()]}
    packages = ("numpy", "torch", "torchvision", "pillow", "lightly", "simplejpeg")
    report = {
        "command": "python benchmarks/loader.py",
        "what": "decode + full SwAV recipe + normalise, one thread; ratios by CPU time, median over repeats",
        "processor": processor(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "seed": SEED,
        "repeats": options.repeats,
        "cases": {},
    }
    for case, crops in CASES.items():
        rates = measure(images[case], contestants(crops), options.repeats)
        found = summary(rates)
        report["cases"][case] = {
            "images": len(images[case]),
            "contestants": found,
            "coterie_milliseconds_an_image": stages(images[case], crops),
            "each_repeat_cpu": {name: [round(r, 1) for r in rate["cpu"]] for name, rate in rates.items()},
        }
        sys.stdout.write(f"{case}\n" + "".join(f"  {name:24s}{row}\n" for name, row in found.items()))
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
