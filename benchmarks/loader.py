"""Images a second on one core, from encoded bytes to normalized batches of views: ours beside what others use.

    python benchmarks/loader.py [--repeats 7] [--case photos|cifar] [--out benchmarks/results/loader.json]

Contestants take turns on batches (of 32 photographs, or 250 small images), so that whatever else the machine does meets them
alike. The figure is images per second of this process's CPU time; the wall clock's stands beside it. A ratio is the median
over the repeats of the ratio within a repeat. Each contestant decodes an image once for all of its crops, and ends with
float32 batches; but "color left to the device" ends where a worker does with ``views.engine = "gpu"``: decoded, cropped,
stacked as uint8, and the parameters for the device packed. Ours are the product's own datasets, as its workers run them.
"""

import argparse
import io
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from alternating import RESULTS, SHARED, Times, command, limit_threads, machine, ratio, write_report

limit_threads()  # before numpy and torch come in

import numpy as np
import pyarrow.parquet as pq
import simplejpeg
import torch
from lightly.transforms import SwaVTransform
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision import transforms as T
from torchvision.transforms import v2

from coterie.data.augmentation.cpu import augment_crops_batch, crop_batch, normalize
from coterie.data.augmentation.view_plan import Crops, ViewPlan
from coterie.data.decoding import jpeg
from coterie.data.decoding.decode import decode
from coterie.data.loading import workers

MEAN, STD = (0.485, 0.456, 0.406), (0.228, 0.224, 0.225)
SEED = 0
PHOTOS, CIFAR = "photos, 2x224 + 6x96", "CIFAR-10, 2x32 + 4x18"
CASES = {
    PHOTOS: (Crops(2, 224, (0.14, 1.0)), Crops(6, 96, (0.05, 0.14))),
    CIFAR: (Crops(2, 32, (0.14, 1.0)), Crops(4, 18, (0.05, 0.14))),
}
BATCHES = {PHOTOS: 32, CIFAR: 250}
PILLOW, LIGHTLY = "torchvision on Pillow", "lightly"
PACKAGES = ("coterie", "numpy", "torch", "torchvision", "pillow", "lightly", "simplejpeg", "stringzilla")

Contestant = Callable[[range], object]  # the numbers of some images -> their views
PlainDecode = Callable[[bytes], Image.Image | Tensor]


class Encoded:
    """A source of encoded images that are in memory."""

    classes: tuple[str, ...] = ()

    def __init__(self, images: list[bytes]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> bytes:
        return self.images[index]

    def name(self, index: int) -> str:
        return str(index)

    def label(self, index: int) -> int | None:
        return None


def ours(source: Encoded, plan: ViewPlan) -> Contestant:
    """What a worker does with ``views.engine = "cpu"``; and normalized here, as the run does."""
    dataset, views = workers.ViewDataset(source, plan, SEED), tuple(range(plan.num_views))

    def make(numbers: range) -> list[Tensor]:
        made = dataset[workers.BatchRequest(0, np.array(numbers), views)]
        return [normalize(view, MEAN, STD) for view in made.pixels.values()]

    return make


def ours_on_pillow(source: Encoded, plan: ViewPlan) -> Contestant:
    make = ours(source, plan)

    def with_pillow(numbers: range) -> object:
        with without_simplejpeg():
            return make(numbers)

    return with_pillow


@contextmanager
def without_simplejpeg() -> Iterator[None]:
    """As where the extra ``fast`` is not installed."""
    found, jpeg.simplejpeg = jpeg.simplejpeg, None
    try:
        yield
    finally:
        jpeg.simplejpeg = found


def ours_for_the_device(source: Encoded, plan: ViewPlan) -> Contestant:
    dataset, views = workers.CropDataset(source, plan, SEED), tuple(range(plan.num_views))
    return lambda numbers: dataset[workers.BatchRequest(0, np.array(numbers), views)]


class PillowBlur:
    def __call__(self, image: Image.Image) -> Image.Image:
        if random.random() >= 0.5:
            return image
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))


def pillow_chain(group: Crops) -> Callable[[Image.Image], Tensor]:
    """The usual recipe, as in SwAV's own code."""
    return T.Compose(
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


def tensor_chain(group: Crops) -> Callable[[Tensor], Tensor]:
    """As torchvision's documentation recommends for speed: v2 on uint8 tensors; a blur of 9 pixels, two deviations wide."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(group.size, scale=group.scale, antialias=True),
            v2.RandomHorizontalFlip(p=0.5),
            v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
            v2.RandomGrayscale(p=0.2),
            v2.RandomApply([v2.GaussianBlur(9, sigma=(0.1, 2.0))], p=0.5),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean=MEAN, std=STD),
        ]
    )


def torchvision(source: Encoded, crops: tuple[Crops, ...], chain: Callable, decode_one: PlainDecode) -> Contestant:
    chains = [chain(group) for group in crops for _ in range(group.count)]

    def make(numbers: range) -> list[Tensor]:
        rows = []
        for number in numbers:
            image = decode_one(source[number])
            rows.append([each(image) for each in chains])
        return [torch.stack(view) for view in zip(*rows, strict=True)]

    return make


def lightly(source: Encoded, crops: tuple[Crops, ...], decode_one: PlainDecode) -> Contestant:
    large, small = crops
    transform = SwaVTransform(
        crop_sizes=(large.size, small.size),
        crop_counts=(large.count, small.count),
        crop_min_scales=(large.scale[0], small.scale[0]),
        crop_max_scales=(large.scale[1], small.scale[1]),
        sigmas=(0.1, 2.0),
        normalize={"mean": list(MEAN), "std": list(STD)},
    )

    def make(numbers: range) -> list[Tensor]:
        rows = [transform(decode_one(source[number])) for number in numbers]
        return [torch.stack(view) for view in zip(*rows, strict=True)]

    return make


def by_pillow(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def to_tensor_from_jpeg(data: bytes) -> Tensor:
    return torch.from_numpy(simplejpeg.decode_jpeg(data)).permute(2, 0, 1)


def to_tensor_from_png(data: bytes) -> Tensor:
    return v2.functional.pil_to_tensor(by_pillow(data))


def contestants(case: str, source: Encoded) -> dict[str, Contestant]:
    crops = CASES[case]
    plan = ViewPlan(crops, mean=MEAN, std=STD)
    found = {"coterie": ours(source, plan)}
    if case == PHOTOS:  # CIFAR's images are PNG
        found["coterie, Pillow decoding"] = ours_on_pillow(source, plan)
    to_tensor = to_tensor_from_jpeg if case == PHOTOS else to_tensor_from_png
    return found | {
        "coterie, color left to the device": ours_for_the_device(source, plan),
        PILLOW: torchvision(source, crops, pillow_chain, by_pillow),
        "torchvision v2 on tensors": torchvision(source, crops, tensor_chain, to_tensor),
        LIGHTLY: lightly(source, crops, by_pillow),
        "lightly on tensors": lightly(source, crops, to_tensor),
    }


def measure(case: str, source: Encoded, repeats: int) -> dict[str, Times]:
    """Seconds an image of each contestant in each repeat."""
    found = contestants(case, source)
    batches = [range(first, min(first + BATCHES[case], len(source))) for first in range(0, len(source), BATCHES[case])]
    for make in found.values():
        make(range(20))
    times, names = {name: Times() for name in found}, list(found)
    for repeat in range(repeats):
        spent = {name: [0.0, 0.0] for name in found}
        for turn, batch in enumerate(batches, start=repeat):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                cpu, wall = time.process_time(), time.perf_counter()
                found[name](batch)
                spent[name][0] += time.process_time() - cpu
                spent[name][1] += time.perf_counter() - wall
        for name, (cpu, wall) in spent.items():
            times[name].cpu.append(cpu / len(source))
            times[name].wall.append(wall / len(source))
    return times


def summary(times: dict[str, Times]) -> dict[str, dict[str, object]]:
    return {
        name: {
            "images_per_second_cpu": round(1 / statistics.median(each.cpu), 1),
            "images_per_second_wall": round(1 / statistics.median(each.wall), 1),
            "milliseconds_an_image_cpu": round(1e3 * statistics.median(each.cpu), 3),
            "times_torchvision_on_pillow": round(ratio(times, name, PILLOW, "cpu"), 2),
            "times_lightly": round(ratio(times, name, LIGHTLY, "cpu"), 2),
            "each_repeat_cpu": [round(1 / seconds, 1) for seconds in each.cpu],
        }
        for name, each in times.items()
    }


def stages(case: str, source: Encoded) -> dict[str, float]:
    """Where our own time goes: CPU milliseconds an image."""
    plan = ViewPlan(CASES[case], mean=MEAN, std=STD)
    views, spent = range(plan.num_views), dict.fromkeys(("decode", "draw", "cut", "finish", "stack", "normalize"), 0.0)
    for first in range(0, len(source), BATCHES[case]):
        clock = [time.process_time()]
        images = [decode(data) for data in source.images[first : first + BATCHES[case]]]
        clock.append(time.process_time())
        draws = plan.sample_parameters(SEED, 0, np.arange(first, first + len(images)))
        clock.append(time.process_time())
        cuts = crop_batch(images, plan, draws, views)
        clock.append(time.process_time())
        made = augment_crops_batch(cuts, draws, views)
        clock.append(time.process_time())
        stacked = [workers.stack_images(view) for view in made]
        clock.append(time.process_time())
        for view in stacked:
            normalize(view, MEAN, STD)
        clock.append(time.process_time())
        for name, start, end in zip(spent, clock, clock[1:], strict=False):
            spent[name] += end - start
    return {name: round(1e3 * seconds / len(source), 3) for name, seconds in spent.items()}


def images_of(case: str) -> Encoded:
    if case == PHOTOS:
        return Encoded([path.read_bytes() for path in sorted((SHARED / "data" / "photos").glob("*.jpg"))])
    table = pq.read_table(SHARED / "data" / "cifar10" / "test.parquet", columns=["image"]).slice(0, 1000)
    return Encoded([image["bytes"] for image in table["image"].to_pylist()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--case", choices=("photos", "cifar"), help="one of the two; both if left out")
    parser.add_argument("--out", type=Path, default=RESULTS / "loader.json")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # lightly's transform of tensors warns at every view
    torch.set_num_threads(1)
    random.seed(SEED)
    torch.manual_seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002 -- lightly's blur draws from it
    report = {
        "command": command(),
        "what": "decode + full SwAV recipe + normalize, one thread; ratios by CPU time, median over repeats",
        "machine": machine(PACKAGES),
        "seed": SEED,
        "repeats": options.repeats,
        "cases": {},
    }
    for case in CASES:
        if options.case and not case.lower().startswith(options.case):
            continue
        source = images_of(case)
        if not len(source):
            sys.exit(
                f"no images in {SHARED}/data: set COTERIE_SHARED to a folder that holds data/photos and data/cifar10"
            )
        found = summary(measure(case, source, options.repeats))
        report["cases"][case] = {
            "images": len(source),
            "batch": BATCHES[case],
            "contestants": found,
            "coterie_milliseconds_an_image": stages(case, source),
        }
        for name, row in found.items():
            shown = {key: value for key, value in row.items() if not isinstance(value, list)}
            sys.stdout.write(f"{case}  {name:36s}{shown}\n")
    write_report(options.out, report)


if __name__ == "__main__":
    main()
