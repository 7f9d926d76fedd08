"""Coterie's presets, through its Python interface as anybody would use it."""

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from clock import Clock
from judge import BACKBONE, groups_used

import coterie
from coterie.config.toml import from_dict, read_toml, to_dict
from coterie.logger import NullLogger


@dataclass(frozen=True)
class Recipe:
    """A preset, and what is set differently from it for ten minutes on two cores."""

    method: str
    batch_size: int | None = None
    settings: tuple[str, ...] = ()


RECIPES = {
    "coterie-swav": Recipe("swav"),
    "coterie-smog": Recipe("smog"),
    "coterie-deepcluster_v2": Recipe("deepcluster_v2"),
    "coterie-sela_v2": Recipe("sela_v2"),
    "coterie-simclr": Recipe("simclr"),
    "coterie-resa": Recipe("resa"),
}


class Telling(NullLogger):
    """Tells the clock of each line of the log."""

    def __init__(self, clock: Clock, epochs: int) -> None:
        self.clock, self.epochs, self.warnings = clock, epochs, []

    def log_metrics(self, record: dict[str, Any], total_steps: int) -> None:
        if "images_per_second" in record:
            self.clock.tick(record["step"] + 1, total_steps // self.epochs)

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    def progress(self, items: Iterable[Any], total: int, what: str) -> Iterator[Any]:
        return iter(items)


def train(
    name: str, data: Path, epochs: int, seed: int, workers: int, clock: Clock, folder: Path, extra: tuple[str, ...]
) -> dict[str, Any]:
    """What the run's log said last; its network lies in ``folder``, which is emptied before."""
    recipe = RECIPES[name]
    shutil.rmtree(folder, ignore_errors=True)
    told = Telling(clock, epochs)
    settings = (
        f"backbone.width={BACKBONE.width}",
        f"backbone.stem={BACKBONE.stem}",
        f"run.workers={workers}",
        *(("run.log_steps=1",) if clock.rehearsal else ()),
        *recipe.settings,
        *(each for each in extra if not each.startswith("batch_size=")),
    )
    wished = next((int(each.partition("=")[2]) for each in extra if each.startswith("batch_size=")), recipe.batch_size)
    coterie.pretrain(
        recipe.method,
        str(data / "train.parquet"),
        out=folder,
        backbone=BACKBONE.name,
        epochs=epochs,
        batch_size=wished,
        seed=seed,
        settings=settings,
        logger=told,
    )
    return said(folder, told.warnings)


def said(folder: Path, warnings: list[str]) -> dict[str, Any]:
    config = from_dict(read_toml(folder / "config.toml"))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "loss" in line]
    tail = lines[-max(1, len(lines) // 20) :]
    return {
        "batch_size": config.batch_size,
        "views": config.views.num_views,
        "steps_per_epoch": (lines[-1]["step"] + 1) // config.epochs,
        "loss": sum(line["loss"] for line in tail) / len(tail),
        "data_wait": sum(line["data_wait"] for line in lines) / len(lines),
        "last_line": lines[-1],
        "warnings": warnings,
        "config": {key: value for key, value in to_dict(config).items() if key not in ("data", "run")},
    }


def used(folder: Path, data: Path) -> int | None:
    """Groups that are some training image's best; None where the method has no groups of its own."""
    table = folder / "embeddings.parquet"
    try:
        coterie.embed(folder, str(data / "train.parquet"), table, workers=0)
    except coterie.UserError:
        return None
    found = pq.read_table(table)
    return groups_used(found["group"].to_numpy()) if "group" in found.column_names else None
