"""One row of the table, in a process of its own; ``run.py`` starts it on the cores and with the threads that it wants."""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import coterie_rows
import lightly_rows
import torch
from alternating import SHARED, commit, model, write_report
from clock import Clock, Enough
from judge import CIFAR10, judge, macs
from prepare import SETS
from table import UNTRAINED
from torch import nn

from coterie.data.loading.center_crop import Preprocessing
from coterie.evaluation.baselines import raw_pixels
from coterie.exporting.model import open_model

PACKAGES = ("coterie", "numpy", "torch", "torchvision", "timm", "pillow", "lightly", "scikit-learn")
Judged = tuple[nn.Module, Preprocessing]


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("contestant", "data", "split", "clock", "tag", "command"):
        parser.add_argument(f"--{name}")
    for name in ("images", "out", "folder"):
        parser.add_argument(f"--{name}", type=Path)
    for name in ("seed", "cores", "workers", "epochs"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    torch.set_num_threads(options.cores)
    train, asked = (name and options.images / f"{name}.parquet" for name in SETS[options.data][options.split])
    report = about(options)
    if options.contestant in UNTRAINED:
        network, preprocessing = without_training(options, train)
        training, groups = {}, lambda: None
    else:
        training, network, preprocessing, groups = rehearse_and_train(options, train)
    report |= {"training": training} if training else {}
    report["network"] = about_network(network, preprocessing)
    report["figures"] = judge(network, preprocessing, train, asked) | {"groups_used": groups()}
    write_report(options.out, report)
    spent = {name: training[name] for name in ("epochs", "share_of_budget", "loss") if name in training}
    sys.stdout.write(f"{options.out.name}: {report['figures']} {spent}\n")


def without_training(options: argparse.Namespace, train: Path) -> Judged:
    """Raw pixels, the network as new, or ImageNet's public weights, each with images as it wants them."""
    if options.contestant == "public-weights":
        (weights,) = (SHARED / "data" / "public_weights").glob("*.safetensors")
        found = open_model(weights)
        return found.network, found.preprocessing
    network, preprocessing = coterie_rows.untrained(options.data, train, options.minutes, options.seed)
    return (network, preprocessing) if options.contestant == "untrained" else raw_pixels(preprocessing)


def rehearse_and_train(
    options: argparse.Namespace, train: Path
) -> tuple[dict[str, Any], nn.Module, Preprocessing, Callable[[], int | None]]:
    """The epochs that the budget pays for, that training, and what came of it."""
    budget = 60 * options.minutes
    epochs, rehearsed = options.epochs, None
    planned = options.data in coterie_rows.PHOTOGRAPHS  # the planner lays the epochs into the minutes itself
    if epochs is None and not planned:
        clock = Clock(rehearsal=True)
        with suppress(Enough):
            trained(options, train, 1000, clock)
        epochs = clock.paid_epochs(budget, options.clock, options.cores)
        rehearsed = [[round(each.wall, 2), round(each.cpu, 2)] for each in clock.epochs]
    clock = Clock(rehearsal=False)
    said, network, preprocessing, groups = trained(options, train, epochs, clock)
    spent = clock.last.by(options.clock, options.cores)
    images = clock.steps * said["batch_size"]
    training = {
        "epochs": epochs if epochs is not None else clock.steps // clock.steps_per_epoch,
        "steps_per_epoch": clock.steps_per_epoch,
        "seconds_wall": round(clock.last.wall, 1),
        "seconds_cpu": round(clock.last.cpu, 1),
        "share_of_budget": round(spent / budget, 3),
        "within_budget": bool(0.9 <= spent / budget <= 1.05),
        "rehearsed_epoch_ends_wall_cpu": rehearsed,
        "images_seen": images,
        "images_per_second": round(images / spent, 1),
        "views_per_second": round(images * said["views"] / spent, 1),
    } | said
    return training, network, preprocessing, groups


def trained(options: argparse.Namespace, train: Path, epochs: int | None, clock: Clock) -> tuple[Any, ...]:
    """What was said, the trained backbone, how it wants its images, and how its groups are counted."""
    how = (epochs, options.seed, options.workers, clock)
    if options.contestant in lightly_rows.RECIPES:
        assert epochs is not None  # run.py has no such row of photographs
        model, said = lightly_rows.train(options.contestant, train, epochs, *how[1:])
        return said, model.backbone.eval(), CIFAR10, lambda: lightly_rows.used(model, train)
    folder = options.folder
    said = coterie_rows.train(
        options.contestant, options.data, train, options.minutes, *how, folder, tuple(options.set)
    )
    found = open_model(folder)
    return said, found.network, found.preprocessing, lambda: coterie_rows.used(options.contestant, folder, train)


def about(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "command": options.command,
        "contestant": options.contestant,
        "tag": options.tag,
        "set": options.set,
        "data": options.data,
        "split": options.split,
        "seed": options.seed,
        "minutes": options.minutes,
        "epochs_given": options.epochs,
        "cores": options.cores,
        "clock": options.clock,
        "workers": options.workers,
        "pinned_to": sorted(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load_average_before": [round(each, 2) for each in os.getloadavg()],
        "processor": model(),
        "commit": commit(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def about_network(network: nn.Module, preprocessing: Preprocessing) -> dict[str, Any]:
    """What is judged, and on which images."""
    return {
        "gmacs": round(macs(network, preprocessing.size) / 1e9, 5),
        "parameters": sum(each.numel() for each in network.parameters()),
        "images": str(preprocessing),
    }


if __name__ == "__main__":
    main()
