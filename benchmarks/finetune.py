"""A fine-tuned classifier beside a linear layer on frozen features: photographs of steel, public weights of ImageNet.

    python benchmarks/finetune.py [--size 64] [--draws 3] [--labels 10,40] [--time 10m] [--shared ../shared] [--toy]

``coterie train --classifier finetune`` and ``--classifier linear`` on the same labels, tested on all test photographs: so many
training photographs of each kind of defect, draw by draw, with the recipe's epochs; then all of them, with the epochs that
``--time`` pays for (on a shared machine, fewer than alone). Fine-tuning trains on four fifths of what it is given, linear on
all. CPU time includes embedding. No test photograph takes part in any choice.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from alternating import RESULTS, SHARED, circumstances, limit_threads, write_report

THREADS = limit_threads()

import numpy as np
import torch

import coterie
from classifier import PACKAGES, drawn, inputs
from coterie.data.sources.open import open_source
from coterie.data.sources.source import ImageSource, Subset
from coterie.data.sources.source import labels as labels_of

HERE: dict[str, Any] = {"quiet": True, "device": "cpu", "workers": 0}
KINDS = ("linear", "finetune")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--labels", default="10,40", help="of each class")
    parser.add_argument("--time", default="10m", help="for all labels; 0: leave them out")
    parser.add_argument("--shared", default=str(SHARED))
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--out", type=Path, default=RESULTS / "finetune.json")
    parser.add_argument("--toy", action="store_true", help="made-up images and random weights")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        weights, data, opened = inputs(options, Path(scratch))
        source = open_source(str(data / "train"))
        report: dict[str, Any] = {**circumstances(options, PACKAGES, os.getloadavg()[0]), "few": {}}
        for count in map(int, options.labels.split(",")):
            found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
            for draw in range(options.draws):
                some = subset(source, count, draw)
                for kind in KINDS:
                    out = Path(scratch) / f"{kind}-{count}-{draw}"
                    found[kind].append(trained(weights, some, data / "test", out, kind, opened))
            report["few"][str(count)] = summary(found)
            sys.stdout.write(f"{count} labels a class: {report['few'][str(count)]}\n")
            sys.stdout.flush()
        if options.time != "0":
            report["all"] = {
                kind: trained(
                    weights, data / "train", data / "test", Path(scratch) / f"{kind}-all", kind, opened, **budget
                )
                for kind, budget in (("linear", {}), ("finetune", {"time": options.time}))
            }
            sys.stdout.write(f"all labels: {report['all']}\n")
    write_report(options.out, report)


def subset(source: ImageSource, count: int, draw: int) -> Subset:
    """So many images of each class."""
    known = labels_of(source)
    rows = np.sort(drawn(torch.from_numpy(known), count, draw).numpy())
    return Subset(source, rows, known[rows], source.classes)


def trained(
    weights: Path, train: Any, test: Path, out: Path, kind: str, opened: dict[str, Any], **budget: str
) -> dict[str, Any]:
    """Train a classifier, test it, and say what it took."""
    began = time.process_time()
    figures = coterie.train(weights, train, out=out, classifier=kind, **HERE, **opened, **budget)
    seconds = time.process_time() - began
    found = coterie.evaluate(out, test, **HERE)["classifier"]
    chosen = tomllib.loads((out / "config.toml").read_text())["chosen"]
    return {
        "test": round(found["top1"], 2),
        "calibration error": round(found["calibration_error"], 4),
        "held out": round(figures.answers.accuracy().value, 2),
        "CPU seconds": round(seconds, 1),
        **({"epochs": chosen["epochs"]} if "epochs" in chosen else {}),
        "candidate": chosen["candidate"],
    }


def summary(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Means over the draws, and the gain of fine-tuning with its standard error."""
    tests = {kind: [each["test"] for each in draws] for kind, draws in found.items()}
    gains = [one - other for one, other in zip(tests["finetune"], tests["linear"], strict=True)]
    error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
    means = {kind: round(statistics.mean(values), 2) for kind, values in tests.items()}
    return means | {"gain": round(statistics.mean(gains), 2), "standard error": round(error, 2), "draws": found}


if __name__ == "__main__":
    main()
