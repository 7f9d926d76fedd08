"""Trains the same head on several networks with several seeds, and keeps every figure as soon as it is known."""

import copy
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coterie.atomic import write_text
from coterie.config.hardware import Runtime
from coterie.embedding.cache import state_key
from coterie.errors import BadRun
from coterie.evaluation.baselines import untrained
from coterie.exporting.model import Model
from coterie.logger import Item, Logger, NullLogger
from coterie.reporting.tables import Table
from coterie.reporting.transfer_page import write_transfer_page
from coterie.training.run_folder import REPORT, RunFolder
from coterie.transferring.heads import Head
from coterie.transferring.results import NEW, HeadResults, said

FILE = "transfer.json"
_REMEDY = "choose another --out, or remove it"


@dataclass(frozen=True)
class _Row:
    """A network of the table.

    Attributes:
        name: of the row.
        model: its weights, or for new weights the network that they are of.
        new: whether it gets new weights, those of each seed.
    """

    name: str
    model: Model
    new: bool

    @property
    def key(self) -> str:
        """Identifies the weights, of new ones the network; and how images are prepared."""
        model = self.model
        weights = f"{model.backbone} {model.image_size}" if self.new else state_key(model.network.state_dict())
        return f"{weights} {model.preprocessing}"

    def opened(self, seed: int, runtime: Runtime) -> Model:
        """A network that may be changed."""
        model, device = self.model, runtime.device
        network = untrained(model, seed, device) if self.new else copy.deepcopy(model.network).to(device)
        name, run = (NEW, None) if self.new else (model.name, model.run)
        return replace(model, name=name, network=network, run=run)


def measure_heads(
    head: Head, model: Model, beside: Sequence[Model], seeds: Sequence[int], out: str | Path, runtime: Runtime
) -> HeadResults:
    """Train a head on new weights, on a MODEL and on others, once with each seed, and compare how good it is.

    Each seed is the same for all networks: images that are held out, order, draws. Seed after seed is measured, so a command
    that is stopped leaves whole tables; the same command again measures only what is missing, also with more seeds or networks.

    Args:
        head: what is trained.
        model: the MODEL, on the device of ``runtime``; new weights are of its network.
        beside: other MODELs.
        seeds: of the trainings.
        out: a folder: ``transfer.json`` has every figure, and a folder for each network and seed what was trained.
        runtime: where and how to compute; its logger receives messages and progress.

    Raises:
        UserError: the folder holds something else, or images cannot be used.
    """
    rows = [_Row(NEW, model, True), *(_Row(each.name, each, False) for each in (model, *beside))]
    logger, total, warned = runtime.logger, len(rows) * len(seeds), set[str]()
    folder = RunFolder(out)
    try:
        kept = _Kept(folder, head, runtime.precision)
        for row in rows:
            kept.open(row)
        for each in (model, *beside):
            for line in each.lines:
                logger.info(line)
        logger.info(f"transfer: {head.line}; {len(rows)} networks, seeds {', '.join(map(str, seeds))}")
        for number, (seed, row) in enumerate(((seed, row) for seed in seeds for row in rows), start=1):
            title = f"{number} of {total}: {row.name}, seed {seed}"
            found = kept.figures(row.name).get(seed)
            if found is None:
                quiet = replace(runtime, logger=_RowLogger(logger, title, warned))
                found = head.measure(row.opened(seed, runtime), seed, kept.path_of(row.name, seed), quiet)
                kept.add(row.name, seed, found)
            leading, name = next(iter(head.columns.items()))
            logger.info(f"{title}: {name} {said([found[leading]])}")
        results = HeadResults(head.columns, seeds, {row.name: kept.figures(row.name) for row in rows})
        results.line = head.line
        kept.summarize(results)
        _write_page(folder.path / REPORT, results, {"model": model.name, "networks": str(len(rows)), "results": FILE})
        return results
    finally:
        folder.close()


def _write_page(path: Path, results: HeadResults, about: Mapping[str, str]) -> None:
    """The same table as in the terminal, and the figures of every seed."""
    shown, header = results.table(), ("", *(f"seed {seed}" for seed in results.seeds))
    means = Table("", ("", *shown.header[1:]), shown.rows)
    seeds = [
        Table(title, header, tuple((name, *found[key]) for name, found in results.items()), decimals=1)
        for key, title in results.columns.items()
        if all(key in found for found in results.values())
    ]
    write_transfer_page(path, f"transfer: {path.parent.name}", results.headline(), results.line, means, seeds, about)


class _Kept:
    """``transfer.json``: what was measured, and on what."""

    def __init__(self, folder: RunFolder, head: Head, precision: str) -> None:
        """Read what is there.

        Raises:
            BadRun: the folder is of something else, or the same of other images or settings.
        """
        self.folder, self.file = folder.path, folder.path / FILE
        facts = json.loads(json.dumps({**head.facts, "precision": precision}))
        self.content: dict[str, Any] = {"head": facts, "columns": dict(head.columns), "rows": {}}
        if not self.file.exists():
            if folder.config.exists() or folder.checkpoints.exists():
                raise BadRun(f"{self.folder} holds something else: choose another --out")
            return
        try:
            found = json.loads(self.file.read_text("utf-8"))
            before, rows = dict(found["head"]), {name: _row(row) for name, row in found["rows"].items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise BadRun(f"{self.file} is damaged: {_REMEDY}") from error
        for name in {**facts, **before}:
            if facts.get(name) != before.get(name):
                if name in ("images", "test"):
                    raise BadRun(f"the images or labels have changed since {self.folder} was begun: {_REMEDY}")
                raise BadRun(
                    f"{self.folder} was begun with {name} {before.get(name, 'none')}, not {facts.get(name)}: {_REMEDY}"
                )
        self.content["rows"] = rows

    def open(self, row: _Row) -> None:
        """Begin a row, or go on with it.

        Raises:
            BadRun: it was begun with other weights.
        """
        kept = self.content["rows"].setdefault(row.name, {"network": row.key, "seeds": {}})
        if kept["network"] != row.key:
            raise BadRun(
                f"{row.name}: weights, or how images are prepared, have changed since {self.folder} was begun: {_REMEDY}"
            )

    def figures(self, name: str) -> dict[int, dict[str, float]]:
        """The figures of a row by seed."""
        return {int(seed): figures for seed, figures in self.content["rows"][name]["seeds"].items()}

    def add(self, name: str, seed: int, figures: Mapping[str, float]) -> None:
        """Keep the figures of a row and seed."""
        self.content["rows"][name]["seeds"][str(seed)] = dict(figures)
        write_text(self.file, json.dumps(self.content, indent=1))

    def summarize(self, results: HeadResults) -> None:
        """Keep means and deviations too."""
        self.content |= {"seeds": list(results.seeds), "summary": results.summary()}
        write_text(self.file, json.dumps(self.content, indent=1))

    def path_of(self, name: str, seed: int) -> Path:
        """The folder of what is trained for a row and seed: its name can be read, and is no other row's."""
        words = re.sub(r"[^A-Za-z0-9.]+", "-", Path(name).name).strip("-.")[-40:]
        return self.folder / f"{words}-{hashlib.sha256(name.encode()).hexdigest()[:6]}" / f"seed-{seed}"


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the file, checked."""
    seeds = {
        str(int(seed)): {str(key): float(value) for key, value in found.items()} for seed, found in row["seeds"].items()
    }
    return {"network": str(row["network"]), "seeds": seeds}


class _RowLogger(NullLogger):
    """Passes on progress under the title of a row, and each warning once; the rest is the same in every row."""

    def __init__(self, logger: Logger, title: str, warned: set[str]) -> None:
        """Pass on to ``logger`` what is not among ``warned``."""
        self.logger, self.title, self.warned = logger, title, warned

    def warning(self, text: str) -> None:
        """Pass on a warning that is new."""
        if text not in self.warned:
            self.warned.add(text)
            self.logger.warning(text)

    def progress(self, items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
        """Pass on the items, by way of the logger."""
        return self.logger.progress(items, total, f"{self.title}: {what}")
