"""Segmentation of blood cells by a linear layer: raw colors, an untrained network, Coterie's own pretraining, public weights.

    python benchmarks/segmentation.py --split tuning --blocks 1,2,3,4,1+2+3+4 --seed 0      # chooses the maps
    python benchmarks/segmentation.py [--arms color,untrained,coterie,public] [--seed 0,1,2] [--blocks N+N] [--shared DIR]
    python benchmarks/segmentation.py --table

300 micrographs of white blood cells in five folds of 60, always the same. Of seed S, fold S is tested on and the four others
are trained on; with ``--split tuning``, fold S is left out, one of the four others is tested on, and three are trained on. All
that is chosen is chosen there: the maps, the same for all networks, and how long and how fast the layer is trained.

``color``: a logistic regression on the color of each pixel, fitted to the end. The others: ``coterie train --masks --head
linear --blocks``. ``untrained``, ``coterie``: a ResNet-18 of a quarter of the width, of random weights, and of a run on the
training micrographs of the row without their masks (``--method``, ``--pretrain-epochs``). ``public``: EfficientNet-lite0 of
ImageNet.
Each row says the CPU time of one thread that it took.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from alternating import RESULTS, SHARED, circumstances, limit_threads, write_report

THREADS = limit_threads()

import os

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

import coterie
from coterie.exporting.backbone_file import save_backbone
from coterie.logger import NullLogger
from coterie.models.backbone import BackboneConfig, build_backbone
from coterie.segmentation.masks import MaskedSource, open_masks
from coterie.segmentation.overlap import overlap
from coterie.segmentation.training_images import read_pair

ARMS = ("color", "untrained", "coterie", "public")
NETWORK, PUBLIC = BackboneConfig("resnet18", width=0.25), "tf_efficientnet_lite0"
PRETRAINED_SIDE = 96
"""Pixels of the images of the run: as ``coterie plan swav cells/images --time 5m`` chooses it, with the network; the number of
epochs, which depends on what else the machine does, is ours."""
FOLDS = 5
MEAN, STD = (0.5,) * 3, (0.2,) * 3
PACKAGES = ("coterie", "torch", "torchvision", "timm")
HERE: dict[str, Any] = {"device": "cpu", "workers": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arms", type=lambda text: text.split(","), default=list(ARMS))
    parser.add_argument("--seed", type=lambda text: list(map(int, text.split(","))), default=[0, 1, 2])
    parser.add_argument("--split", choices=("test", "tuning"), default="test")
    parser.add_argument("--blocks", type=lambda text: text.split(","), default=["1+2+3+4"], help="each a row")
    parser.add_argument("--epochs", type=int, default=12, help="of the linear layer")
    parser.add_argument("--learning-rate", type=float, help="of the linear layer, else the schedule's")
    parser.add_argument("--method", default="swav", help="of the run")
    parser.add_argument("--pretrain-epochs", type=int, default=60, help="about five minutes of one core")
    parser.add_argument("--runs", help="folder in which runs are kept; else a temporary one")
    parser.add_argument("--shared", default=str(SHARED))
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--out", type=Path, default=RESULTS / "segmentation", help="folder of the rows")
    parser.add_argument("--toy", action="store_true", help="made-up images and a moment of training")
    parser.add_argument("--table", action="store_true", help="print what is there")
    options = parser.parse_args()
    if options.table:
        sys.stdout.write(table(options.out))
        return
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        data = draw(scratch / "toy") if options.toy else Path(options.shared) / "data" / "cells"
        for seed in options.seed:
            for arm in options.arms:
                for block in options.blocks if arm != "color" else [""]:
                    tail = "" if arm == "color" else f"_block{block}"
                    out = options.out / f"{options.split}_{arm}{tail}_seed{seed}.json"
                    if not out.exists():
                        about = circumstances(options, PACKAGES, os.getloadavg()[0])
                        train, test = parts(data, options.split, seed, scratch)
                        found = row(arm, block, seed, (train, test, data / "masks"), options, scratch)
                        write_report(out, about | found)
                    sys.stdout.write(f"{out.stem}: {json.loads(out.read_text())['figures']}\n")
                    sys.stdout.flush()


def parts(data: Path, split: str, seed: int, scratch: Path) -> tuple[Path, Path]:
    """Lists of the images that are trained on, and of those that are tested on."""
    images = sorted((data / "images").iterdir())
    folds = np.array_split(np.random.default_rng(0).permutation(len(images)), FOLDS)
    tested, left_out = seed % FOLDS, [seed % FOLDS]
    if split == "tuning":
        tested = (seed + 1) % FOLDS
        left_out.append(tested)
    chosen = {
        "test": np.sort(folds[tested]),
        "train": np.sort(np.concatenate([fold for place, fold in enumerate(folds) if place not in left_out])),
    }
    for name, places in chosen.items():
        lines = "".join(f"{images[place]}\n" for place in places)
        (scratch / f"{split}-{seed}-{name}.txt").write_text(lines)
    return scratch / f"{split}-{seed}-train.txt", scratch / f"{split}-{seed}-test.txt"


def row(
    arm: str, block: str, seed: int, data: tuple[Path, Path, Path], options: argparse.Namespace, scratch: Path
) -> dict[str, Any]:
    """Train a linear layer and test it."""
    train, test, masks = data
    done: dict[str, Any] = {"arm": arm, "block": block, "seed": seed, "pretraining": None}
    if arm == "color":
        began = time.process_time()
        figures = by_color(
            *(open_masks(masks, None, coterie.open_source(each), NullLogger()) for each in (train, test))
        )
    else:
        model, opened, done["pretraining"] = weights(arm, seed, train, options, scratch)
        began, out = time.process_time(), scratch / f"{arm}-{block}-{seed}"
        coterie.train(
            model,
            train,
            out=out,
            masks=masks,
            head="linear",
            blocks=[int(each) for each in block.split("+")],
            epochs=options.epochs,
            learning_rate=options.learning_rate,
            seed=seed,
            **opened,
            **HERE,
        )
        found = coterie.evaluate(out, test, masks=masks, **HERE)
        figures = dict(found["segmenter"]) | {f"iou {name}": value for name, value in found["iou"].items()}
    done["seconds"] = round(time.process_time() - began, 1)
    return done | {"figures": {name: round(value, 2) for name, value in figures.items()}}


def weights(
    arm: str, seed: int, images: Path, options: argparse.Namespace, scratch: Path
) -> tuple[Path, dict[str, Any], dict[str, Any] | None]:
    """The MODEL of a row, how it is opened, and what pretraining took."""
    if arm == "public" and not options.toy:
        return Path(options.shared) / "data" / "public_weights" / f"{PUBLIC}.safetensors", {"backbone": PUBLIC}, None
    if arm != "coterie":
        torch.manual_seed(seed)
        file = scratch / f"new-{seed}.safetensors"
        save_backbone(file, build_backbone(NETWORK, 128), NETWORK, 128, MEAN, STD)
        return file, {}, None
    epochs = 1 if options.toy else options.pretrain_epochs
    run = Path(options.runs or scratch) / f"{options.split}-{options.method}-{epochs}-{seed}"
    smaller = run.with_name(f"{run.name}-images")
    smaller.mkdir(parents=True, exist_ok=True)
    for each in map(Path, images.read_text().splitlines()):
        with Image.open(each) as picture:
            factor = PRETRAINED_SIDE / min(picture.size)
            size = [round(side * factor) for side in picture.size]
            picture.resize(size, Image.Resampling.LANCZOS).save(smaller / each.name)
    began = time.process_time()
    coterie.pretrain(
        options.method,
        smaller,
        out=run,
        backbone=NETWORK.name,
        epochs=epochs,
        seed=seed,
        settings=(f"backbone.width={NETWORK.width}", f"run.threads={options.threads}", "run.workers=0"),
    )
    took = {"method": options.method, "epochs": epochs, "seconds of this call": round(time.process_time() - began, 1)}
    return run, {}, took


def by_color(train: MaskedSource, test: MaskedSource) -> dict[str, float]:
    """The figures of a logistic regression on the color of each pixel, fitted by L-BFGS."""
    classes = len(train.classes.names)
    pairs = [read_pair(train, place, 3) for place in range(len(train.positions))]
    colors = torch.cat([image.flatten(1).T for image, _ in pairs])
    labels = torch.cat([torch.from_numpy(each).flatten() for _, each in pairs]).long()
    mean, std = colors.mean(dim=0), colors.std(dim=0)
    weight, bias = torch.zeros(3, classes, requires_grad=True), torch.zeros(classes, requires_grad=True)
    rows = (colors - mean) / std
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(rows @ weight + bias, labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    found = []
    with torch.no_grad():
        for place in range(len(test.positions)):
            image, true = read_pair(test, place, 3)
            scores = ((image.flatten(1).T - mean) / std) @ weight + bias
            found.append((scores.argmax(dim=1).reshape(true.shape).to(torch.uint8).numpy(), true))
    counted = overlap(found, classes)
    ious = {f"iou {name}": float(value) for name, value in zip(test.classes.names, counted.ious, strict=True)}
    return counted.figures() | ious


def draw(folder: Path) -> Path:
    """Made-up data in the layout of the cells: a bright disc with a brighter core on gray."""
    generator = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    rows, columns = np.mgrid[:64, :64]
    for number in range(20):
        center, radius = generator.integers(20, 44, 2), int(generator.integers(10, 18))
        distance = np.hypot(rows - center[0], columns - center[1])
        mask = np.where(distance < radius / 2, 255, np.where(distance < radius, 128, 0))
        pixels = generator.integers(0, 60, (64, 64, 3)) + mask[..., None] // 2
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{number:02d}.png")
        Image.fromarray(mask.astype(np.uint8)).save(folder / "masks" / f"{number:02d}.png")
    return folder


def table(folder: Path) -> str:
    """The mean of each arm and block over its seeds, with its deviation."""
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for file in sorted(folder.glob("*.json")):
        report = json.loads(file.read_text())
        found.setdefault((file.name.partition("_")[0], report["arm"], report["block"]), []).append(report)
    lines = []
    for (split, arm, block), rows in found.items():
        values = [each["figures"]["miou"] for each in rows]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        seconds = statistics.mean(each["seconds"] for each in rows)
        where = "" if arm == "color" else f" maps {block}"
        lines.append(
            f"{split} {arm:9}{where:13} mIoU {statistics.mean(values):.1f}{spread}  {len(rows)} seeds, {seconds:.0f} s each"
        )
    return "\n".join(lines) + "\n" if lines else "nothing is there\n"


if __name__ == "__main__":
    main()
