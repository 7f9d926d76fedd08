"""One network trained on CIFAR-10 and judged as it is after the last epoch: ours, or lightly's SwAV on the same images.

    python benchmarks/gpu/cifar.py coterie-swav --data DATA --work FOLDER --out FILE [--epochs 200] [--seed 0]
    python benchmarks/gpu/cifar.py lightly-swav --data DATA --work FOLDER --out FILE

``coterie-METHOD`` is ``coterie pretrain METHOD`` with the preset's own settings. ``lightly-swav`` is the recipe of lightly's
CIFAR-10 benchmark at batch 512, with its modules, transform and optimizer, in float32, images decoded beforehand, in its own
data loader. ``lightly-swav-fed`` is the same training, but the same crops and colors are made by our loader, which lets it
reach 200 epochs where eight processes with Pillow would need hours; its accuracy says what the recipe learns, its time
nothing about lightly. All have the same network: ResNet-18 with the 3x3 stem.

A run that was stopped, by a signal or at once, goes on from its last checkpoint in ``--work`` when it is called again. Judged
on whole unaugmented images, the training images voting: kNN (k = 200, T = 0.1 among others) and the linear probe.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "quality")]

from alternating import command, machine, write_report

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import nn

import coterie
from coterie.config.hardware import Runtime, choose_device, choose_engine, choose_workers
from coterie.data.augmentation.view_plan import Augmentation, Crops, ViewPlan
from coterie.data.loading.center_crop import Preprocessing
from coterie.data.loading.loader import Loader
from coterie.data.sources.open import open_source
from coterie.embedding.embed import embed_source
from coterie.evaluation.probes.embedding_probes import probe_embeddings
from coterie.models.backbone import BackboneConfig, build_backbone
from coterie.training.run_folder import read_log

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BATCH = 512  # lightly's better row
PACKAGES = ("coterie", "torch", "torchvision", "timm", "numpy")
Step = Callable[[list[torch.Tensor]], None]


@contextmanager
def counted(work: Path) -> Iterator[None]:
    """Adds the wall time of this call to what earlier calls took, also when it is stopped."""
    began, note = time.perf_counter(), work / "seconds.json"
    try:
        yield
    finally:
        write_report(note, {"pieces": [*pieces(work), round(time.perf_counter() - began, 1)]})


def pieces(work: Path) -> list[float]:
    """Seconds of each call so far."""
    note = work / "seconds.json"
    return json.loads(note.read_text())["pieces"] if note.exists() else []


def ours(options: argparse.Namespace, device: torch.device) -> tuple[nn.Module, Preprocessing, dict[str, Any]]:
    """A run of the product, as anybody would start it."""
    run = options.work / "run"
    settings = (f"run.device={device}", f"run.workers={options.workers}", *options.set)
    with counted(options.work):
        coterie.pretrain(
            options.contestant.removeprefix("coterie-"),
            str(options.data / options.train),
            out=run,
            epochs=options.epochs,
            batch_size=options.batch,
            seed=options.seed,
            settings=settings,
        )
    look, lines = coterie.describe_backbone(run), read_log(run)
    losses = [line for line in lines if "loss" in line]
    said: dict[str, Any] = {"config": (run / "config.toml").read_text(), "last_line": losses[-1]}
    if options.looks:
        said["looks"] = [line for line in lines if "label_free" in line or "knn" in line]
        said["selected"] = coterie.select(run).snapshot
    return coterie.load_backbone(run).to(device), Preprocessing(look.image_size, 3, look.mean, look.std), said


def lightly(options: argparse.Namespace, device: torch.device) -> tuple[nn.Module, Preprocessing, dict[str, Any]]:
    """Epochs of lightly's recipe, with a checkpoint after each."""
    from contestants import Lightly
    from lightly_models import SwAV

    torch.manual_seed(options.seed)
    backbone = build_backbone(BackboneConfig("resnet18", width=options.width, stem="small"), 32)
    batch = options.batch or BATCH
    model = SwAV(backbone, backbone.num_features).to(device)
    optimizer = model.optimizer(batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs)
    trained = Lightly(model, optimizer)
    epochs = own_epochs if options.contestant == "lightly-swav" else fed_epochs
    saved = options.work / "checkpoint.pt"
    begun = torch.load(saved, map_location=device) if saved.exists() else None
    first = 0
    if begun:
        first = begun.pop("epoch")
        for name, part in {"model": model, "optimizer": optimizer, "schedule": schedule}.items():
            part.load_state_dict(begun[name])
    for epoch, batches in epochs(options, batch, first, device):
        with counted(options.work):
            trained.steps(batches)
            schedule.step()
            parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
            state = {name: part.state_dict() for name, part in parts.items()} | {"epoch": epoch + 1}
            torch.save(state, saved.with_suffix(".unfinished"))
            saved.with_suffix(".unfinished").replace(saved)
        if options.stop_after and epoch + 1 >= options.stop_after:
            sys.exit(3)
    return (
        backbone.eval(),
        Preprocessing(32, 3, *IMAGENET),
        {"batch": batch, "optimizer": "Adam", "precision": "float32"},
    )


def own_epochs(
    options: argparse.Namespace, batch: int, first: int, device: torch.device
) -> Iterator[tuple[int, Iterable[list[torch.Tensor]]]]:
    """lightly's own transform in torch's loader; each epoch has a seed of its own, so that a resumed run sees the same."""
    import random

    import lightly_rows
    import numpy as np
    from torch.utils.data import DataLoader

    loader = DataLoader(
        lightly_rows.Decoded(options.data / options.train, lightly_rows.SwAV.transform), batch, shuffle=True, drop_last=True,
        num_workers=options.workers,
    )  # fmt: skip
    for epoch in range(first, options.epochs):
        seed = 1000 * options.seed + epoch
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 -- lightly's transforms draw from it
        yield epoch, loader


def fed_epochs(
    options: argparse.Namespace, batch: int, first: int, device: torch.device
) -> Iterator[tuple[int, Iterable[list[torch.Tensor]]]]:
    """The same crops and colors from our loader."""
    augmentation = Augmentation(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, blur=0.0)
    mean, std = IMAGENET
    plan = ViewPlan((Crops(2, 32, (0.14, 1.0), augmentation=augmentation),), mean=mean, std=std)
    loader = Loader(
        open_source(str(options.data / options.train)), plan, batch_size=batch, epochs=options.epochs, seed=options.seed,
        workers=options.workers, device=device, engine=choose_engine("auto", device)[0],
    )  # fmt: skip
    steps = loader.steps_per_epoch
    batches = loader.batches(first * steps)
    for epoch in range(first, options.epochs):
        yield epoch, (list(next(batches)[1].views.values()) for _ in range(steps))


def judge(
    network: nn.Module, preprocessing: Preprocessing, options: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """kNN and linear, of the backbone as it is now."""
    train, test = (
        embed_source(
            network,
            open_source(str(options.data / each)),
            preprocessing,
            runtime=Runtime(workers=options.workers, device=torch.device(device)),
        )
        for each in (options.train, options.test)
    )
    return probe_embeddings(
        ("knn", "linear"), train, test, runtime=Runtime(device=torch.device(device)), seed=options.seed
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("contestant", help="coterie-METHOD, lightly-swav or lightly-swav-fed")
    for name in ("data", "work", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=-1)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--batch", type=int, help="else the preset's; lightly's 512")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", default="train.parquet")
    parser.add_argument("--test", default="test.parquet")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="of ours")
    parser.add_argument("--looks", action="store_true", help="the lines of ours without labels come into the result")
    parser.add_argument("--width", type=float, default=1.0, help="of lightly's network: a trial, not a measurement")
    parser.add_argument("--stop-after", type=int, default=0, help="epochs of lightly's: a trial of the resume")
    options = parser.parse_args()
    device = choose_device(options.device)
    options.workers = choose_workers(options.workers)
    options.work.mkdir(parents=True, exist_ok=True)
    about = machine(PACKAGES, str(device))
    train = ours if options.contestant.startswith("coterie-") else lightly
    network, preprocessing, said = train(options, device)
    figures = judge(network, preprocessing, options, device)
    seconds = pieces(options.work)
    report = {
        "command": command(),
        "contestant": options.contestant,
        **about,
        "seed": options.seed,
        "epochs": options.epochs,
        "train": options.train,
        "test": options.test,
        "set": options.set,
        "workers": options.workers,
        "minutes": round(sum(seconds) / 60, 2),
        "seconds_of_each_call": seconds if train is ours else [round(sum(seconds), 1)],
        "peak_mib": round(torch.cuda.max_memory_allocated(device) / 2**20, 1) if device.type == "cuda" else None,
        "figures": figures,
        **said,
    }
    write_report(options.out, report)
    sys.stdout.write(f"{options.contestant}: {report['minutes']} min, {json.dumps(figures)}\n")


if __name__ == "__main__":
    main()
