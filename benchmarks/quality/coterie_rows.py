"""Coterie's presets, and alignment without groups, through its Python interface as anybody would use it."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import alignment
import pyarrow.parquet as pq
import torch
from clock import Clock
from judge import BACKBONE, groups_used

import coterie
from coterie.config.hardware import choose_autocast
from coterie.config.options import RunOptions
from coterie.config.schema import PretrainConfig
from coterie.config.toml import from_dict, read_toml, to_dict
from coterie.data.loading.center_crop import Preprocessing
from coterie.logger import NullLogger
from coterie.training.build import build_student
from coterie.training.student import preprocessing_of
from coterie.types import Progress, StepResult

ALIGNMENT = "coterie-alignment"


@dataclass(frozen=True)
class Recipe:
    """A preset, and what is set differently from it."""

    method: str
    settings: tuple[str, ...] = ()
    parts: coterie.CustomParts | None = None


RECIPES = {
    **{f"coterie-{name}": Recipe(name) for name in ("swav", "smog", "deepcluster_v2", "sela_v2", "simclr", "resa")},
    "coterie-simclr-unregularized": Recipe("simclr", ("regularizer=none",)),
    ALIGNMENT: Recipe("simclr", alignment.SETTINGS, coterie.CustomParts(objective=alignment.build)),
}


SMALL: dict[str, Any] = {"backbone": BACKBONE.name}
SMALL_SETTINGS = (f"backbone.width={BACKBONE.width}", f"backbone.stem={BACKBONE.stem}")
PHOTOGRAPHS = ("steel", "cells")
"""Network, size of the images and epochs are the planner's, from the minutes (``--time``)."""


class Warnings(NullLogger):
    """Keeps what a run warns of."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, text: str) -> None:
        self.warnings.append(text)


class Ticks(coterie.Callback):
    """Tells the clock of each step."""

    every_process = True  # the end of a rehearsal passes through

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_start(self, run: Any) -> None:
        refresh = run.config.refresh
        self.clock.period = refresh.every_epochs if refresh else 1

    def on_step_end(self, progress: Progress, result: StepResult) -> None:
        self.clock.tick(progress.step + 1, progress.steps_per_epoch)


def options_of(
    recipe: Recipe, data: str, minutes: float, epochs: int | None, seed: int, extra: tuple[str, ...]
) -> RunOptions:
    """The options of a run, as ``coterie.pretrain`` takes them; there ``batch_size`` is an option."""
    wished = [int(each.partition("=")[2]) for each in extra if each.startswith("batch_size=")]
    settings = (*recipe.settings, *(each for each in extra if not each.startswith("batch_size=")))
    length: dict[str, Any] = {"epochs": epochs, "batch_size": wished[-1] if wished else None}
    if data in PHOTOGRAPHS:
        return {"seed": seed, "settings": settings, "time": f"{60 * minutes:g}s"} | length  # type: ignore[return-value]
    return {"seed": seed, "settings": (*SMALL_SETTINGS, *settings)} | SMALL | length  # type: ignore[return-value]


def untrained(data: str, images: Path, minutes: float, seed: int) -> tuple[torch.nn.Module, Preprocessing]:
    """The network of a set of images as a run would begin with it, and how it wants its images."""
    config = coterie.plan(
        "swav", str(images), **options_of(RECIPES["coterie-swav"], data, minutes, None, seed, ())
    ).config
    return build_student(config).encoder.backbone.eval(), preprocessing_of(config)


def train(
    name: str, data: str, images: Path, minutes: float, epochs: int | None, seed: int, workers: int, clock: Clock,
    folder: Path, extra: tuple[str, ...],
) -> dict[str, Any]:  # fmt: skip
    """What the run's log said last; its network lies in ``folder``, which is emptied before."""
    recipe, logger = RECIPES[name], Warnings()
    shutil.rmtree(folder, ignore_errors=True)
    options = options_of(recipe, data, minutes, epochs, seed, (f"run.workers={workers}", *extra))
    ticks = [Ticks(clock)]
    coterie.pretrain(
        recipe.method, str(images), out=folder, callbacks=ticks, parts=recipe.parts, logger=logger, **options
    )
    return said(folder, logger.warnings)


def said(folder: Path, warnings: list[str]) -> dict[str, Any]:
    config = from_dict(read_toml(folder / "config.toml"))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "loss" in line]
    tail = lines[-max(1, len(lines) // 20) :]
    return {
        "batch_size": config.batch_size,
        "views": config.views.num_views,
        "precision": precision_of(config),
        "loss": sum(line["loss"] for line in tail) / len(tail),
        "data_wait": sum(line["data_wait"] for line in lines) / len(lines),
        "last_line": lines[-1],
        "warnings": warnings,
        "config": {key: value for key, value in to_dict(config).items() if key != "data"},
    }


def precision_of(config: PretrainConfig) -> str:
    half = choose_autocast(config.run.precision, torch.device("cpu"))
    return "float32" if half is None else str(half).removeprefix("torch.")


def used(name: str, folder: Path, images: Path) -> int | None:
    """Groups that are some training image's best; None where the method has no groups of its own."""
    if RECIPES[name].parts is not None:
        return None
    table = folder / "embeddings.parquet"
    coterie.embed(folder, str(images), table, workers=0, quiet=True)
    groups = pq.read_table(table, columns=["group"])["group"].to_numpy()
    return groups_used(groups) if groups.min() >= 0 else None
