"""A short run of one preset on CIFAR-10, looked at again and again: figures without labels beside kNN accuracy.

    python benchmarks/labelfree/run.py swav --epochs 6
    python benchmarks/labelfree/run.py swav --epochs 6 --set learning_rate.peak=3 --tag wild

Trains on the images of ``benchmarks/quality`` (10,000) with its small network, on one thread. Before the first step and at
``--looks`` moments, evenly, it writes a line: the label-free figures of ``--images`` training images and of 4 augmented
views of each, of the backbone's features (``features``), of these as unit rows (``unit``) and of the projected embeddings
(``embeddings``), the training loss since the look before, and kNN accuracy on 5,000 other training images (the tuning
split, never the test images). One JSON-lines file a run in ``results/labelfree``; a run that is there is not done again.
``correlate.py`` reads them.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "quality"))

import numpy as np
import torch
from judge import BACKBONE
from prepare import BUILD, prepare
from torch import Tensor
from torch.nn import functional as F

from coterie.config.hardware import choose_autocast
from coterie.config.schema import PretrainConfig
from coterie.data.loading.loader import Loader
from coterie.data.sources.open import open_source
from coterie.data.sources.source import ImageSource, Subset, labels
from coterie.embedding.embed import embedded_batches
from coterie.errors import UserError
from coterie.evaluation.augmented_views import embed_views
from coterie.evaluation.label_free import label_free
from coterie.evaluation.probes.knn import knn
from coterie.grouping.loss import cosine_scores
from coterie.methods.resolve import resolve_run
from coterie.training.build import TrainingParts, build_parts
from coterie.training.loop import fit
from coterie.training.student import preprocessing_of
from coterie.types import Progress, StepResult

RESULTS = HERE.parent / "results" / "labelfree"
PACKAGES = ("coterie", "numpy", "torch", "timm")


def main() -> None:
    options = arguments()
    name = f"{options.method}{'-' + options.tag if options.tag else ''}_seed{options.seed}"
    out = options.results / f"{name}.jsonl"
    if out.exists():
        sys.stdout.write(f"{out} is there\n")
        return
    torch.set_num_threads(1)
    prepare("cifar10", options.data)
    options.results.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_suffix(".unfinished")
    with unfinished.open("w") as file:

        def write(record: dict[str, Any]) -> None:
            file.write(json.dumps(record) + "\n")
            file.flush()
            sys.stdout.write(said(record))
            sys.stdout.flush()

        try:
            train(options, write)
        except UserError as error:  # a run that was made too bad: its looks so far stand
            write({"ended": str(error)})
    unfinished.replace(out)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("method")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--looks", type=int, default=8)
    parser.add_argument("--images", type=int, default=2000, help="that the label-free figures look at")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="wants --tag")
    parser.add_argument("--tag", default="", help="part of the run's name")
    parser.add_argument("--first", type=int, help="only so many images of each split: a trial, not a measurement")
    parser.add_argument("--data", type=Path, default=BUILD / "cifar10")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if (options.set or options.first) and not options.tag:
        parser.error("--set and --first make another run: name it with --tag")
    return options


def train(options: argparse.Namespace, write: Callable[[dict[str, Any]], None]) -> None:
    """One run from beginning to end."""
    flags = {"backbone": BACKBONE.name, "epochs": options.epochs, "batch_size": options.batch_size}
    flags |= {"seed": options.seed}
    small = [f"backbone.width={BACKBONE.width}", f"backbone.stem={BACKBONE.stem}", "run.workers=0", "run.device=cpu"]
    where = (str(options.data / "train.parquet"),)
    config = resolve_run(options.method, where, flags | {"settings": [*small, *options.set]}).config
    images, questions = (some(options.data / f"{split}.parquet", options.first) for split in ("train", "tuning"))
    parts = build_parts(config, images=len(images))
    loader = Loader(
        images, config.views, batch_size=config.batch_size, epochs=config.epochs, seed=config.seed, workers=0
    )
    write(about(options, config))
    looks = Looks(config, parts, images, questions, options.images, write)
    moments = {round(loader.total_steps * each / options.looks) - 1 for each in range(1, options.looks + 1)}
    looks(0, 0.0)

    def observe(progress: Progress, result: StepResult) -> None:
        looks.losses.append(float(result.loss.detach()))
        if progress.step in moments:
            looks(progress.step + 1, (progress.step + 1) / progress.steps_per_epoch)

    fit(
        parts.student,
        parts.objective,
        loader.batches(0),
        config.optimizer.build(parts.student),
        config.learning_rate.at,
        fill_batches=loader.fill_batches,
        autocast=choose_autocast(config.run.precision, torch.device("cpu")),
        clip_grad_norm=config.clip_grad_norm,
        seed=config.seed,
        on_step_end=[observe],
    )


@dataclass
class Looks:
    """Looks at a run and writes what it sees."""

    config: PretrainConfig
    parts: TrainingParts
    images: ImageSource
    questions: ImageSource
    count: int
    write: Callable[[dict[str, Any]], None]
    losses: list[float] = field(default_factory=list)
    earlier: dict[str, Tensor] = field(default_factory=dict)
    began: float = field(default_factory=time.process_time)

    def __call__(self, step: int, epoch: float) -> None:
        began, student = time.process_time(), self.parts.student.eval()
        voters, asked = (self._whole(source) for source in (self.images, self.questions))
        chosen = np.sort(np.random.default_rng(0).permutation(len(self.images))[: self.count])
        views = embed_views(self._see, self.images, chosen, self.config.views, self.config.seed)
        votes = knn(
            voters[0], numbers(self.images), asked[0], numbers(self.questions), neighbors=(20,), temperatures=(0.07,)
        )
        record: dict[str, Any] = {"step": step, "epoch": round(epoch, 3)}
        features, embeddings = (each[torch.from_numpy(chosen)] for each in voters)
        seen = {"features": (features, views[0]), "unit": (F.normalize(features), F.normalize(views[0], dim=2))}
        for which, (rows, several) in (seen | {"embeddings": (embeddings, views[1])}).items():
            record[which] = label_free(rows, several, *self._groups(views[1]), self.earlier.get(which))
            self.earlier[which] = rows
        if self.losses:
            record["loss"] = sum(self.losses) / len(self.losses)
        self.losses.clear()
        record |= {"knn": {"k20_t0.07_top1": votes["k20_t0.07_top1"]}}
        now = time.process_time()
        self.write(record | {"seconds_of_look": round(now - began, 1), "seconds": round(now - self.began, 1)})
        student.train()

    def _see(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        h, z, _ = self.parts.student([batch])
        return h[0].float(), z[0]

    def _whole(self, source: ImageSource) -> tuple[Tensor, ...]:
        seen = (outputs for _, outputs, _ in embedded_batches(self._see, source, preprocessing_of(self.config)))
        return tuple(torch.cat(each) for each in zip(*seen, strict=True))

    def _groups(self, z: Tensor) -> tuple[Tensor | None, int]:
        groups = self.parts.student.groups
        if groups is None:
            return None, 0
        centers = groups.centers()[0].detach()
        return torch.stack([cosine_scores(view, centers).argmax(dim=1) for view in z]), len(centers)


def some(path: Path, first: int | None) -> ImageSource:
    source = open_source(str(path))
    if first is None:
        return source
    chosen = np.random.default_rng(0).permutation(len(source))[:first]
    return Subset(source, chosen, labels(source)[chosen], source.classes)


def numbers(source: ImageSource) -> Tensor:
    return torch.from_numpy(labels(source).astype(np.int64))


def about(options: argparse.Namespace, config: PretrainConfig) -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    return {
        "method": options.method,
        "tag": options.tag,
        "set": options.set,
        "seed": config.seed,
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "images": options.images,
        "first": options.first,
        "groups": list(config.group_counts),
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "processor": processor or platform.processor(),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def said(record: dict[str, Any]) -> str:
    if "ended" in record:
        return f"ended: {record['ended']}\n"
    if "features" not in record:
        return f"{record['method']} {record['tag']}: {record['epochs']} epochs of batches of {record['batch_size']}\n"
    figures = "  ".join(f"{name} {value:.3g}" for name, value in record["features"].items())
    accuracy = record["knn"]["k20_t0.07_top1"]
    return f"step {record['step']}  kNN {accuracy:.1f}  {figures}  ({record['seconds']:.0f} s)\n"


if __name__ == "__main__":
    main()
