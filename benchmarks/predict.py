"""``coterie predict`` beside ``coterie embed`` of the same network on the same images: CPU time, one thread, taking turns.

    python benchmarks/predict.py [--repeats 5] [--images 2000] [--photos 24] [--out benchmarks/results/predict.json] [--toy]

Both open a file of weights, prepare the same pixels and write a parquet file. Classifiers: a linear layer with 10 and with
1,000 classes, and kNN among 1,000 and among 10,000 labeled images. Networks and heads have random weights, of which only the
time matters. A ratio is the median over the repeats of the ratio within a repeat: images a second by predict over those by
embed.
"""

import argparse
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from alternating import RESULTS, SHARED, alternate, circumstances, compared, limit_threads, show_rows, write_report

limit_threads()

import torch
from torch import nn

import coterie
from coterie.classifier.classifier_file import Classifier, save_classifier
from coterie.classifier.heads import Head, KnnHead
from coterie.exporting.backbone_file import save_backbone
from coterie.exporting.model import open_model
from coterie.models.backbone import BackboneConfig, build_backbone, feature_width
from embedding import CASES, MEAN, STD, Case, first_files, head_of

EMBED = "coterie embed"
HEADS = {
    "linear, 10 classes": (10, 0),
    "linear, 1,000 classes": (1000, 0),
    "kNN among 1,000, 100 classes": (100, 1000),
    "kNN among 10,000, 100 classes": (100, 10_000),
}
"""Classes and labeled images of each."""
CHOSEN = ("photographs, ResNet-50, 224 pixels", "CIFAR-10, ResNet-18, 32 pixels")
PACKAGES = ("coterie", "numpy", "torch", "timm", "pillow", "simplejpeg", "pyarrow")


def head(name: str, width: int) -> Head:
    """A last layer with random values."""
    classes, voters = HEADS[name]
    if voters:
        return KnnHead(torch.randn(voters, width), torch.randint(classes, (voters,)), classes)
    return nn.Linear(width, classes)


def measure(case: Case, source: Path, folder: Path, repeats: int) -> dict[str, Any]:
    """Times of embed and of predict with each head."""
    torch.manual_seed(0)
    config, weights = BackboneConfig(case.backbone), folder / f"{case.backbone}.safetensors"
    network = build_backbone(config, case.size)
    save_backbone(weights, network, config, case.size, MEAN, STD, interpolation="bicubic")
    where = {"device": "cpu", "workers": 0, "quiet": True}
    contestants = {EMBED: partial(coterie.embed, weights, source, folder / "embed.parquet", **where)}
    for number, name in enumerate(HEADS):
        made = Classifier(open_model(weights), head(name, feature_width(network)), _classes(name), threshold=0.5)
        kept = save_classifier(folder / f"{case.backbone}-{number}", made)
        contestants[name] = partial(coterie.predict, kept, source, folder / f"{number}.parquet", **where)
    for each in contestants.values():  # once before: imports, and the files come into memory
        each()
    times, counts = alternate(contestants, repeats)
    (count,) = set(counts.values())
    rows = {EMBED: times[EMBED].rounded()} | {name: compared(times, name, {"embed": EMBED}) for name in HEADS}
    return {"images": count, "backbone": case.backbone, "size": case.size, "contestants": rows}


def _classes(name: str) -> tuple[str, ...]:
    return tuple(f"class {number}" for number in range(HEADS[name][0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=2000, help="of CIFAR-10")
    parser.add_argument("--photos", type=int, default=24)
    parser.add_argument("--toy", action="store_true", help="few images, small ones and a small network: a trial")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shared", default=str(SHARED))
    parser.add_argument("--out", type=Path, default=RESULTS / "predict.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load, cases = os.getloadavg()[0], {name: CASES[name] for name in CHOSEN}
    if options.toy:
        cases = {name: each._replace(backbone="resnet10t", size=32) for name, each in cases.items()}
        options.repeats, options.images, options.photos = 3, 300, 8
    data, report = Path(options.shared) / "data", dict[str, Any]()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        photos = first_files(data / "photos", options.photos, folder / "photos")
        small = head_of(data / "cifar10" / "test.parquet", options.images, folder / "cifar.parquet")
        for (name, case), source in zip(cases.items(), (photos, small), strict=True):
            report[name] = measure(case, source, folder, options.repeats)
            show_rows({f"{name}: {each}": report[name]["contestants"][each] for each in HEADS})
    write_report(options.out, {**circumstances(options, PACKAGES, load), **report})


if __name__ == "__main__":
    main()
