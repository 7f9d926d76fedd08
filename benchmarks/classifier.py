"""A classifier from few and from all labels: photographs of steel, public weights of ImageNet.

    python benchmarks/classifier.py [--size 128] [--draws 20] [--labels 3,10,40] [--parts few,uneven,all] [--shared ../shared]
                                    [--toy]

Few labels: so many training photographs of each kind of defect are drawn, and the classifier that ``coterie train`` would keep
is tested on all test photographs, beside scikit-learn's LogisticRegression as it comes, on the same features. ``coterie``: the
other training photographs are in the folder without a label; ``coterie, labeled images only``: they are not. No test photograph
takes part in anything but the test; but the candidates and their default were settled with an eye on
the same test photographs. A difference has the standard error over the draws.

Uneven classes: 80, 40, 20, 10, 6 and 4 labels of the six kinds, in an order that is drawn; the mean over the classes with
and without ``--balanced``, and of scikit-learn with ``class_weight="balanced"`` (features scaled by one number).

All labels: ``coterie train`` on all training photographs, then ``coterie evaluate`` on the test photographs; CPU time of the
second call of train, whose features are kept, so that all but embedding is in it.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from alternating import RESULTS, SHARED, circumstances, limit_threads, write_report

THREADS = limit_threads()

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch import Tensor

import coterie
from coterie.classifier.balance import balance_shift, shifted
from coterie.classifier.calibration import fit_temperature
from coterie.classifier.choose_head import choose_head, logits_of
from coterie.classifier.folds import folds
from coterie.classifier.heads import probabilities
from coterie.classifier.linear_candidates import LinearCandidates
from coterie.data.sources.open import open_source
from coterie.embedding.embed import Embeddings, embed_source
from coterie.evaluation.classification import Answers
from coterie.exporting.backbone_file import save_backbone
from coterie.exporting.model import open_model
from coterie.logger import NullLogger
from coterie.models.backbone import BackboneConfig, build_backbone

NETWORK = "tf_efficientnet_lite0"
PACKAGES = ("coterie", "numpy", "scikit-learn", "torch", "timm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128, help="pixels")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--labels", default="3,10,40", help="of each class")
    parser.add_argument("--parts", default="few,uneven,all")
    parser.add_argument("--shared", default=str(SHARED))
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--out", type=Path, default=RESULTS / "classifier.json")
    parser.add_argument("--toy", action="store_true", help="made-up images and random weights")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        weights, data, opened = inputs(options, Path(scratch))
        network = open_model(weights, **opened)
        train, test = (
            embed_source(network.network, open_source(str(data / part)), network.preprocessing)
            for part in ("train", "test")
        )
        report: dict[str, Any] = circumstances(options, PACKAGES, os.getloadavg()[0])
        parts = options.parts.split(",")
        for count in map(int, options.labels.split(",") if "few" in parts else ()):
            report.setdefault("few", {})[str(count)] = few(train, test, count, options.draws)
            sys.stdout.write(f"{count} labels a class: {report['few'][str(count)]}\n")
            sys.stdout.flush()
        if "uneven" in parts:
            report["uneven"] = uneven(train, test, options.draws)
            sys.stdout.write(f"uneven classes: {report['uneven']}\n")
        if "all" in parts:
            report["all"] = all_labels(weights, data, opened, Path(scratch) / "classifier")
            sys.stdout.write(f"all labels: {report['all']}\n")
    write_report(options.out, report)


def inputs(options: argparse.Namespace, scratch: Path) -> tuple[Path, Path, dict[str, Any]]:
    """The weights, the folder of images, and how the model is opened."""
    if not options.toy:
        data = Path(options.shared) / "data"
        opened = {"backbone": NETWORK, "size": options.size}
        return data / "public_weights" / f"{NETWORK}.safetensors", data / "steel", opened
    torch.manual_seed(0)
    settings, look = BackboneConfig("resnet18", width=0.25, stem="small"), (0.5, 0.5, 0.5)
    save_backbone(scratch / "model.safetensors", build_backbone(settings, 16).eval(), settings, 16, look, look)
    generator = np.random.default_rng(0)
    for part, kind, number in np.ndindex(2, 3, 8):
        pixels = generator.integers(0, 120, (16, 16, 3))
        pixels[..., kind] += 100
        file = scratch / "toy" / ("train", "test")[part] / f"class{kind}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(file)
    return scratch / "model.safetensors", scratch / "toy", {}


def few(train: Embeddings, test: Embeddings, count: int, draws: int) -> dict[str, Any]:
    """Accuracies with so many labels a class, draw by draw."""
    found: dict[str, list[float]] = {"coterie": [], "coterie, labeled images only": [], "scikit-learn": []}
    errors: dict[str, list[float]] = {name: [] for name in found if name != "scikit-learn"}
    chosen: dict[str, int] = {}
    everything = LinearCandidates.of(int(train.labels.max()) + 1, train.rows)  # of the same images in every draw
    for draw in range(draws):
        rows = drawn(train.labels, count, draw)
        rest = torch.ones(len(train.labels), dtype=torch.bool).index_fill(0, rows, False)
        plain = LogisticRegression(max_iter=2000).fit(train.rows[rows].numpy(), train.labels[rows].numpy())
        right = plain.predict(test.rows.numpy()) == test.labels.numpy()
        found["scikit-learn"].append(100 * float(right.mean()))
        for name, others in (("coterie", train.rows[rest]), ("coterie, labeled images only", None)):
            fit = LinearCandidates.of(everything.classes, train.rows[rows])
            if others is not None:
                fit = replace(everything, unlabeled=(others.double() - everything.mean) @ everything.components)
            answers, candidate = judged(fit, train.rows[rows], train.labels[rows], test)
            found[name].append(answers.accuracy().value)
            errors[name].append(answers.calibration_error())
            chosen[candidate] = chosen.get(candidate, 0) + 1
    report: dict[str, Any] = {name: {"mean": round(statistics.mean(values), 2)} for name, values in found.items()}
    for name in errors:
        gains = [one - other for one, other in zip(found[name], found["scikit-learn"], strict=True)]
        error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
        report[name] |= {
            "over scikit-learn": round(statistics.mean(gains), 2),
            "standard error": round(error, 2),
            "calibration error": round(statistics.mean(errors[name]), 3),
            "draws": [round(each, 2) for each in found[name]],
        }
    return report | {"chosen": chosen}


UNEVEN = (80, 40, 20, 10, 6, 4)


def uneven(train: Embeddings, test: Embeddings, draws: int) -> dict[str, Any]:
    """The mean over the classes with uneven labels, draw by draw."""
    found: dict[str, list[float]] = {}
    classes = int(train.labels.max()) + 1
    for draw in range(draws):
        generator = torch.Generator().manual_seed(draw)
        order, kinds = (
            torch.randperm(len(train.labels), generator=generator),
            torch.randperm(classes, generator=generator),
        )
        of_kinds = zip(kinds.tolist(), UNEVEN, strict=False)
        rows = torch.cat([order[train.labels[order] == kind][:count] for kind, count in of_kinds])
        features, labels = train.rows[rows], train.labels[rows]
        fit = LinearCandidates.of(classes, features)
        chosen = choose_head(fit, features, labels, folds(labels.numpy()), classes, fit.default, NullLogger())
        balanced = shifted(chosen, balance_shift(labels.bincount().double(), chosen.temperature))
        answers = {
            name: logits_of(each.head, test.rows) for name, each in (("natural", chosen), ("balanced", balanced))
        }
        scale = float(features.std())
        for name, weight in (("scikit-learn", None), ("scikit-learn, balanced", "balanced")):
            plain = LogisticRegression(max_iter=2000, class_weight=weight)
            plain.fit((features / scale).numpy(), labels.numpy())
            answers[name] = torch.from_numpy(plain.predict_proba((test.rows / scale).numpy()))
        for name, scores in answers.items():
            right = scores.argmax(dim=1) == test.labels
            each = [float(right[test.labels == kind].double().mean()) for kind in range(classes)]
            found.setdefault(name, []).append(100 * statistics.mean(each))
    gains = [one - other for one, other in zip(found["balanced"], found["natural"], strict=True)]
    error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
    means = {name: round(statistics.mean(values), 2) for name, values in found.items()}
    return means | {"balanced over natural": round(statistics.mean(gains), 2), "standard error": round(error, 2)}


def drawn(labels: Tensor, count: int, draw: int) -> Tensor:
    """The same rows for everybody: so many of each class."""
    generator = torch.Generator().manual_seed(draw)
    order = torch.randperm(len(labels), generator=generator)
    return torch.cat([order[labels[order] == number][:count] for number in range(int(labels.max()) + 1)])


def judged(fit: LinearCandidates, rows: Tensor, labels: Tensor, test: Embeddings) -> tuple[Answers, str]:
    """The calibrated answers of the head that train would choose."""
    chosen = choose_head(fit, rows, labels, folds(labels.numpy()), fit.classes, fit.default, NullLogger())
    temperature = fit_temperature(chosen.logits[chosen.held], labels[chosen.held])
    return Answers(probabilities(logits_of(chosen.head, test.rows), temperature), test.labels), chosen.name


def all_labels(weights: Path, data: Path, opened: dict[str, Any], out: Path) -> dict[str, Any]:
    """Train on all labels, test, and train once more from kept features, for the time of the rest."""
    here: dict[str, Any] = {"quiet": True, "device": "cpu", "workers": 0}
    figures = coterie.train(weights, data / "train", out=out, **here, **opened)
    began = time.process_time()
    coterie.train(weights, data / "train", out=out, **here, **opened)
    seconds = time.process_time() - began
    found = coterie.evaluate(out, data / "test", **here)["classifier"]
    unknown = {each.name: round(each.found.value, 1) for each in figures.unknown}
    return {
        "labels": len(figures.positions),
        "held out": round(figures.answers.accuracy().value, 2),
        "test": {name: round(value, 4) for name, value in found.items()},
        "calibration error, held out": round(figures.answers.calibration_error(), 4),
        "before temperature scaling": round(figures.uncalibrated or 0.0, 4),
        "found unknown when left out, %": unknown,
        "CPU seconds after embedding": round(seconds, 2),
    }


if __name__ == "__main__":
    main()
