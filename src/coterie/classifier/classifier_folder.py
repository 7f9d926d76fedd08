"""The folder of a classifier: its lock, what was asked for it, and the images that it was trained on."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w

from coterie.atomic import write_text, writing
from coterie.classifier.classifier_file import is_classifier
from coterie.errors import BadRun
from coterie.training.run_folder import CONFIG, IMAGES, LOG, RunFolder

REPORT = "report.html"
_REMEDY = "choose another --out, or remove it"


class ClassifierFolder:
    """A classifier's folder, locked as a run's is: ``config.toml``, ``metrics.jsonl``, ``images.parquet``, ``embeddings/``.

    Attributes:
        path: of the folder.
        asked: what was asked.
        chosen: what was chosen so far, also by an earlier call.
        checkpoints: the folder of the state of a training.
    """

    def __init__(self, path: str | Path, asked: Mapping[str, Any]) -> None:
        """Open and lock the folder; create it if it does not exist.

        Args:
            path: the folder.
            asked: plain values of everything on which the classifier depends.

        Raises:
            BadRun: it holds something else, such as a run or a classifier of which something else was asked, or it is in use.
        """
        self._folder = RunFolder(path)
        self.path, self.checkpoints = self._folder.path, self._folder.checkpoints
        self.asked = {name: value for name, value in asked.items() if value is not None}
        self.chosen: dict[str, Any] = {}
        try:
            self._check()
            self.write_config()
        except BaseException:
            self._folder.close()
            raise

    def close(self) -> None:
        """Unlock the folder; a new one is removed again if nothing was kept in it."""
        self._folder.close()

    def write_config(self, **chosen: Any) -> None:
        """Write ``config.toml``: what was asked, and what was chosen, now and before."""
        self.chosen |= chosen
        tables = {"classifier": self.asked} | ({"chosen": self.chosen} if self.chosen else {})
        write_text(self.path / CONFIG, tomli_w.dumps(tables))

    def log(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write ``metrics.jsonl`` anew from some lines, which are numbered where they have no step."""
        lines = [json.dumps({"step": step, **record}) for step, record in enumerate(records)]
        write_text(self.path / LOG, "".join(f"{line}\n" for line in lines))

    def write_images(self, columns: Mapping[str, Any]) -> None:
        """Write ``images.parquet``: a row for each labeled image."""
        with writing(self.path / IMAGES) as part:
            pq.write_table(pa.table(dict(columns)), part)

    def _check(self) -> None:
        config = self.path / CONFIG
        if not config.exists():
            if is_classifier(self.path):
                raise BadRun(f"{self.path} is a classifier without {CONFIG}: {_REMEDY}")
            return
        try:
            tables = tomllib.loads(config.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise BadRun(f"{config} is damaged: {_REMEDY}") from error
        found, chosen = tables.get("classifier"), tables.get("chosen", {})
        if not isinstance(found, dict):
            raise BadRun(f"{self.path} is a run, not a classifier: choose another --out")
        self.chosen = dict(chosen) if isinstance(chosen, dict) else {}
        for name in [*self.asked, *found]:
            if found.get(name) != self.asked.get(name):
                if name in ("network", "images"):
                    what = "the weights of MODEL have" if name == "network" else "the images of LABELLED have"
                    raise BadRun(f"{what} changed since {self.path} was begun: {_REMEDY}")
                before, now = (each.get(name, "none") for each in (found, self.asked))
                raise BadRun(f"{self.path} was begun with {name} {before}, not {now}: {_REMEDY}")


def trained_contents(path: Path) -> set[str]:
    """What identifies the images that a classifier was trained on; empty where that is not known.

    Args:
        path: of the classifier: its folder or its file.
    """
    file = (path if path.is_dir() else path.parent) / IMAGES
    try:
        found = pq.read_table(file, columns=["content"]).column("content").to_pylist()
    except (OSError, pa.ArrowException, KeyError):
        return set()
    return {each for each in found if each}
