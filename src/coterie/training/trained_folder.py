"""The folder of a classifier, a detector or a segmenter: a run's lock and log, what was asked for it, and what was chosen."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import tomli_w

from coterie.atomic import write_text
from coterie.errors import BadRun
from coterie.training.run_folder import CONFIG, RunFolder

Noun = Literal["classifier", "detector", "segmenter"]
_REMEDY = "choose another --out, or remove it"


class TrainedFolder(RunFolder):
    """The folder of what ``coterie train`` makes, locked as a run's is.

    Attributes:
        noun: what it holds.
        asked: what was asked.
        chosen: what was chosen so far, also by an earlier call.
        file: the weights; they are written last.
    """

    def __init__(self, path: str | Path, noun: Noun, asked: Mapping[str, Any]) -> None:
        """Open and lock the folder; create it if it does not exist.

        Args:
            path: the folder.
            noun: what it is to hold.
            asked: plain values of everything on which that depends.

        Raises:
            BadRun: it holds something else, such as a run or one of which something else was asked, or it is in use.
        """
        super().__init__(path)
        self.noun, self.file = noun, self.path / f"{noun}.safetensors"
        self.asked = {name: value for name, value in asked.items() if value is not None}
        self.chosen: dict[str, Any] = {}
        try:
            self._check()
            self.write_config()
        except BaseException:
            self.close()
            raise

    def write_config(self, **chosen: Any) -> None:
        """Write ``config.toml``: what was asked, and what was chosen, now and before."""
        self.chosen |= chosen
        tables = {self.noun: self.asked} | ({"chosen": self.chosen} if self.chosen else {})
        write_text(self.config, tomli_w.dumps(tables))

    def write_log(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write ``metrics.jsonl`` anew from some lines, which are numbered where they have no step."""
        lines = [json.dumps({"step": step, **record}) for step, record in enumerate(records)]
        write_text(self.log, "".join(f"{line}\n" for line in lines))

    def _check(self) -> None:
        """Read what was chosen before; refuse a folder of something else."""
        if not self.config.exists():
            if self.file.exists() or self.checkpoints.exists():
                raise BadRun(f"{self.path} has weights or checkpoints, but no {CONFIG}: {_REMEDY}")
            return
        try:
            tables = tomllib.loads(self.config.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise BadRun(f"{self.config} is damaged: {_REMEDY}") from error
        holds = next((each for each in get_args(Noun) if isinstance(tables.get(each), dict)), "run")
        if holds != self.noun:
            raise BadRun(f"{self.path} is a {holds}, not a {self.noun}: choose another --out")
        found, chosen = tables[self.noun], tables.get("chosen")
        self.chosen = chosen if isinstance(chosen, dict) else {}
        also = {"detector": " or their boxes", "segmenter": " or their masks"}.get(self.noun, "")
        facts = {"network": "the weights of MODEL", "images": f"the images of LABELED{also}"}
        for name in [*self.asked, *found]:
            if found.get(name) != self.asked.get(name):
                if name in facts:
                    raise BadRun(f"{facts[name]} have changed since {self.path} was begun: {_REMEDY}")
                before, now = (each.get(name, "none") for each in (found, self.asked))
                raise BadRun(f"{self.path} was begun with {name} {before}, not {now}: {_REMEDY}")
