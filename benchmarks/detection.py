"""A detector from Coterie's own pretraining, from new weights and from public ones: photographs of steel, a core, six minutes.

    python benchmarks/detection.py [--arms untrained,new,coterie,public] [--seed 0,1,2] [--split test|tuning] [--shared DIR]
    python benchmarks/detection.py --table

Faster R-CNN with a feature pyramid, by the schedule ``small`` of ``coterie train --boxes``, on 400 training photographs, always
the same; tested on the 360 test photographs, or with ``--split tuning`` on 200 other training photographs, on which everything
that is chosen is chosen. Each row takes ``--minutes`` of CPU time of one thread: seconds of a step are measured first, and as
many whole passes are trained as fit.

``new``, ``coterie``: a ResNet-18 of half the width, from random weights and from a run on the same 400 photographs without
their boxes (``--method``, ``--pretrain-epochs``), whose own CPU time is in its row. ``public``: EfficientNet-lite0 from
ImageNet. ``untrained``: the detector of ``new`` before its first step.
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

import coterie
from coterie.config.hardware import Runtime
from coterie.detection.boxes import find_images
from coterie.detection.detector import DetectorSettings
from coterie.detection.detector_file import new_detector, save_detector
from coterie.detection.detector_training import DetectorTraining
from coterie.detection.schedules import SMALL
from coterie.detection.voc import read_boxes
from coterie.exporting.backbone_file import save_backbone
from coterie.exporting.model import open_model
from coterie.models.backbone import BackboneConfig, build_backbone

ARMS = ("untrained", "new", "coterie", "public")
NETWORK, PUBLIC = BackboneConfig("resnet18", width=0.5), "tf_efficientnet_lite0"
TRAINING, TUNING = 400, 200
MEAN, STD = (0.5,) * 3, (0.2,) * 3
PACKAGES = ("coterie", "torch", "torchvision", "timm", "pycocotools")
MEASURED_STEPS = 6
HERE: dict[str, Any] = {"device": "cpu", "workers": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arms", type=lambda text: text.split(","), default=list(ARMS))
    parser.add_argument("--seed", type=lambda text: list(map(int, text.split(","))), default=[0, 1, 2])
    parser.add_argument("--split", choices=("test", "tuning"), default="test")
    parser.add_argument("--minutes", type=float, default=6.0, help="of CPU time of a row")
    parser.add_argument("--method", default="swav", help="of the run")
    parser.add_argument("--pretrain-epochs", type=int, default=100)
    parser.add_argument("--learning-rate", type=float, help="else the schedule's")
    parser.add_argument("--run", help="where the run is kept, or already is; else a temporary folder")
    parser.add_argument("--shared", default=str(SHARED))
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--out", type=Path, default=RESULTS / "detection", help="folder of the rows")
    parser.add_argument("--toy", action="store_true", help="made-up images and a moment of training")
    parser.add_argument("--table", action="store_true", help="print what is there")
    options = parser.parse_args()
    if options.table:
        sys.stdout.write(table(options.out))
        return
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        data = draw(scratch / "toy") if options.toy else Path(options.shared) / "data" / "steel"
        train, test = splits(data, options.split, scratch)
        for arm in options.arms:
            for seed in options.seed:
                out = options.out / f"{options.split}_{arm}_seed{seed}.json"
                if not out.exists():
                    about = circumstances(options, PACKAGES, os.getloadavg()[0])
                    write_report(out, about | row(arm, seed, train, test, options, scratch))
                sys.stdout.write(f"{out.stem}: {json.loads(out.read_text())['figures']}\n")
                sys.stdout.flush()


def splits(data: Path, split: str, scratch: Path) -> tuple[tuple[Path, Path], tuple[Path, Path]]:
    """Folder and file of boxes of the images that are trained on, and of those that are tested on."""
    content = json.loads((data / "boxes_train.json").read_text())
    order = np.random.default_rng(0).permutation(len(content["images"]))
    half = len(order) // 2
    training, tuning = min(TRAINING, half), min(TUNING, half)
    parts = {"train": order[:training], "tuning": order[training : training + tuning]}
    for name, places in parts.items():
        images = [content["images"][place] for place in places]
        numbers = {each["id"] for each in images}
        boxes = [each for each in content["annotations"] if each["image_id"] in numbers]
        (scratch / f"{name}.json").write_text(json.dumps(content | {"images": images, "annotations": boxes}))
        (scratch / f"{name}.txt").write_text("".join(f"{data / 'train' / each['file_name']}\n" for each in images))
    tested = data / "test", data / "boxes_test.json"
    if split == "tuning":
        tested = scratch / "tuning.txt", scratch / "tuning.json"
    return (scratch / "train.txt", scratch / "train.json"), tested


def row(
    arm: str,
    seed: int,
    train: tuple[Path, Path],
    test: tuple[Path, Path],
    options: argparse.Namespace,
    scratch: Path,
) -> dict[str, Any]:
    """Train a detector and test it."""
    model, opened, before = weights(arm, seed, train[0], options, scratch)
    out = scratch / f"{arm}-{seed}"
    done: dict[str, Any] = {"passes": 0, "seconds": 0.0, "pretraining": before}
    if arm == "untrained":
        detector = built(model, opened, train, seed)
        detector.network.eval()
        save_detector(out, detector)
    else:
        each = seconds_of_a_pass(model, opened, train, seed)
        done["passes"] = 1 if options.toy else max(1, int(60 * options.minutes / each))
        began = time.process_time()
        coterie.train(
            model,
            train[0],
            out=out,
            boxes=train[1],
            epochs=done["passes"],
            learning_rate=options.learning_rate,
            seed=seed,
            **opened,
            **HERE,
        )
        done["seconds"] = round(time.process_time() - began, 1)
    found = coterie.evaluate(out, test[0], boxes=test[1], **HERE)["detector"]
    return {"arm": arm, "seed": seed, **done, "figures": {name: round(value, 2) for name, value in found.items()}}


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
    run, began = Path(options.run or scratch / "run"), time.process_time()
    coterie.pretrain(
        options.method,
        images,
        out=run,
        backbone=NETWORK.name,
        epochs=1 if options.toy else options.pretrain_epochs,
        settings=(f"backbone.width={NETWORK.width}", f"run.threads={options.threads}", "run.workers=0"),
    )
    epochs = 1 if options.toy else options.pretrain_epochs
    took = {"method": options.method, "epochs": epochs, "seconds of this call": round(time.process_time() - began, 1)}
    return run, {}, took


def built(model: Path, opened: dict[str, Any], train: tuple[Path, Path], seed: int) -> Any:
    """The detector that ``coterie train`` begins with."""
    file = read_boxes(train[1])
    side = min(min(each.width, each.height) for each in file.images)
    heads = {name: getattr(SMALL, name) for name in ("longest", "width", "hidden", "regions", "proposals")}
    found = open_model(model, **opened)
    torch.manual_seed(seed)
    return new_detector(
        found, DetectorSettings("faster_rcnn", (side,), **heads), file.categories, file.numbers, "cpu", {}
    )


def seconds_of_a_pass(model: Path, opened: dict[str, Any], train: tuple[Path, Path], seed: int) -> float:
    """CPU time of a pass over the training images, from some steps after one to warm up."""
    detector, boxed = (
        built(model, opened, train, seed),
        find_images(read_boxes(train[1]), coterie.open_source(train[0])),
    )
    detector.network.train()
    times = [time.process_time()]
    training = DetectorTraining(detector.network, boxed, SMALL, MEASURED_STEPS, seed, Runtime())
    training.run(after_step=lambda: times.append(time.process_time()))
    return (times[-1] - times[1]) / (len(times) - 2) * -(-len(boxed.positions) // SMALL.batch_size)


def draw(folder: Path) -> Path:
    """Made-up data in the layout of steel: gray images of one bright square or bar each."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 6)):
        (folder / part).mkdir(parents=True)
        images, boxes = [], []
        for number in range(count):
            width, height = ((24, 24), (40, 12))[number % 2]
            left, top = (int(generator.integers(0, 64 - each)) for each in (width, height))
            pixels = generator.integers(0, 60, (64, 64, 3))
            pixels[top : top + height, left : left + width] += 180
            Image.fromarray(pixels.astype(np.uint8)).save(folder / part / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 64})
            box = {"id": number + 1, "image_id": number, "bbox": [left, top, width, height], "iscrowd": 0}
            boxes.append(box | {"area": width * height, "category_id": number % 2})
        kinds = [{"id": 0, "name": "square"}, {"id": 1, "name": "bar"}]
        content = {"images": images, "annotations": boxes, "categories": kinds}
        (folder / f"boxes_{part}.json").write_text(json.dumps(content))
    return folder


def table(folder: Path) -> str:
    """The mean of each arm over its seeds, with its deviation, and how much above new weights it is."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for file in sorted(folder.glob("*.json")):
        report = json.loads(file.read_text())
        found.setdefault((file.name.partition("_")[0], report["arm"]), []).append(report)
    lines = []
    for (split, arm), rows in found.items():
        values = [each["figures"]["ap50"] for each in rows]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        whole = statistics.mean(each["figures"]["map"] for each in rows)
        line = f"{split} {arm:9} AP50 {statistics.mean(values):.1f}{spread}  mAP {whole:.1f}"
        lines.append(f"{line}  {rows[0]['passes']} passes, {len(rows)} seeds")
    return "\n".join(lines) + "\n" if lines else "nothing is there\n"


if __name__ == "__main__":
    main()
