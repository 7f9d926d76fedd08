"""One row of the table, in a process of its own; ``run.py`` starts it on the cores and with the threads that it wants."""

import argparse
import os
import platform
import sys
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import coterie_rows
import lightly_rows
import torch
from alternating import commit, model, write_report
from clock import Clock, Enough
from judge import BACKBONE, IMAGENET, backbone, judge, macs, raw_pixels

from coterie import describe_backbone, load_backbone

PACKAGES = ("coterie", "numpy", "torch", "torchvision", "timm", "pillow", "lightly", "scikit-learn")


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("contestant", "split", "clock", "tag"):
        parser.add_argument(f"--{name}")
    for name in ("data", "out", "folder"):
        parser.add_argument(f"--{name}", type=Path)
    for name in ("seed", "cores", "workers", "epochs"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    torch.set_num_threads(options.cores)
    report = about(options)
    if options.contestant in ("raw-pixels", "untrained"):
        network = raw_pixels if options.contestant == "raw-pixels" else backbone(options.seed).eval()
        report["figures"] = judge(network, IMAGENET, options.data, options.split)
    else:
        report |= rehearse_and_train(options)
    write_report(options.out, report)
    sys.stdout.write(f"{options.out.name}: {report['figures']} {report.get('training', '')}\n")


def rehearse_and_train(options: argparse.Namespace) -> dict[str, Any]:
    """The epochs that the budget pays for, that training, and what came of it."""
    budget = 60 * options.minutes
    epochs, rehearsed = options.epochs, None
    if epochs is None:
        clock = Clock(rehearsal=True)
        with suppress(Enough):
            train(options, 1000, clock)
        epochs = clock.paid_epochs(budget, options.clock, options.cores)
        rehearsed = [[round(each.wall, 2), round(each.cpu, 2)] for each in clock.epochs]
    clock = Clock(rehearsal=False)
    said, network, normalization, groups = train(options, epochs, clock)
    spent = clock.last.by(options.clock, options.cores)
    training = {
        "epochs": epochs,
        "seconds_wall": round(clock.last.wall, 1),
        "seconds_cpu": round(clock.last.cpu, 1),
        "share_of_budget": round(spent / budget, 3),
        "within_budget": bool(0.9 <= spent / budget <= 1.05),
        "rehearsed_epoch_ends_wall_cpu": rehearsed,
    } | said
    if "steps_per_epoch" in said:
        images = clock.steps * said["batch_size"]
        training["images_per_second"] = round(images / clock.last.wall, 1)
        training["views_per_second"] = round(images * said["views"] / clock.last.wall, 1)
        training["images_seen"] = images
    figures = judge(network, normalization, options.data, options.split)
    return {"training": training, "figures": figures | {"groups_used": groups()}}


def train(options: argparse.Namespace, epochs: int, clock: Clock) -> tuple[Any, ...]:
    """What was said, the trained backbone, what it wants its images normalized by, and how its groups are counted."""
    where = (options.contestant, options.data, epochs, options.seed, options.workers, clock)
    if options.contestant in lightly_rows.RECIPES:
        model, said = lightly_rows.train(*where)
        return said, model.backbone.eval(), IMAGENET, lambda: lightly_rows.used(model, options.data)
    said = coterie_rows.train(*where, options.folder, tuple(options.set))
    look = describe_backbone(options.folder)
    count = lambda: coterie_rows.used(options.folder, options.data)  # noqa: E731
    return said, load_backbone(options.folder), (look.mean, look.std), count


def about(options: argparse.Namespace) -> dict[str, Any]:
    network = backbone(options.seed)
    return {
        "contestant": options.contestant,
        "tag": options.tag,
        "set": options.set,
        "split": options.split,
        "seed": options.seed,
        "minutes": options.minutes,
        "cores": options.cores,
        "clock": options.clock,
        "workers": options.workers,
        "pinned_to": sorted(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load_average_before": [round(each, 2) for each in os.getloadavg()],
        "backbone": {
            "name": BACKBONE.name,
            "width": BACKBONE.width,
            "stem": BACKBONE.stem,
            "gmacs_32px": round(macs(network) / 1e9, 5),
            "parameters": sum(each.numel() for each in network.parameters()),
        },
        "processor": model(),
        "commit": commit(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


if __name__ == "__main__":
    main()
