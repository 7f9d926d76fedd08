"""The folder of a detector: its lock, what was asked for it, its log, and the checkpoint of a training that was stopped."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import tomli_w
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from coterie.atomic import write_text
from coterie.errors import BadRun
from coterie.exporting.backbone_file import read_metadata, write_tensors
from coterie.paths import DETECTOR_FILE
from coterie.training.run_folder import CONFIG, RunFolder, read_log

CHECKPOINT, BAD_IMAGES = "checkpoint.safetensors", "bad_images.txt"
_HEADER = "coterie_detector_checkpoint"
_DETECTOR, _OPTIMIZER = "detector.", "optimizer."
_REMEDY = "choose another --out, or remove it"


@dataclass
class TrainingProgress:
    """How far a training is.

    Attributes:
        steps: that are done.
        bad: name and reason of the images that could not be used.
        losses: of the steps since the last line of the log.
    """

    steps: int = 0
    bad: dict[str, str] = field(default_factory=dict)
    losses: list[dict[str, float]] = field(default_factory=list)


class DetectorFolder:
    """A detector's folder, locked as a run's is: ``config.toml``, ``metrics.jsonl``, ``checkpoint.safetensors``."""

    def __init__(self, path: str | Path, asked: Mapping[str, Any]) -> None:
        """Open and lock the folder; create it if it does not exist.

        Args:
            path: the folder.
            asked: plain values of everything on which the detector depends.

        Raises:
            BadRun: it holds something else, such as a run or a detector of which something else was asked, or it is in use.
        """
        self._folder = RunFolder(path)
        self.path = self._folder.path
        self.asked = {name: value for name, value in asked.items() if value is not None}
        try:
            self.chosen: dict[str, Any] = self._check()
        except BaseException:
            self._folder.close()
            raise

    def close(self) -> None:
        """Unlock the folder; a new one is removed again if nothing was kept in it."""
        self._folder.close()

    @property
    def complete(self) -> bool:
        """Whether the detector is there."""
        return (self.path / DETECTOR_FILE).is_file()

    def write_config(self, chosen: Mapping[str, Any]) -> None:
        """Write ``config.toml``: what was asked, and what was chosen."""
        self.chosen = dict(chosen)
        write_text(self.path / CONFIG, tomli_w.dumps({"detector": self.asked, "chosen": self.chosen}))

    def log(self, record: Mapping[str, Any]) -> None:
        """Add a line to ``metrics.jsonl``."""
        self._folder.append(dict(record))

    def records(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``."""
        return read_log(self.path)

    def write_bad_images(self, bad: Mapping[str, str]) -> None:
        """List the images that could not be used, with reasons."""
        self._folder.write_bad_images(bad.items())

    def save_checkpoint(self, detector: nn.Module, optimizer: Optimizer, progress: TrainingProgress) -> None:
        """Write everything that a training goes on from; nothing is pickled.

        Raises:
            UserError: the file cannot be written; the previous one stays intact.
        """
        kept = {_DETECTOR + name: value for name, value in detector.state_dict().items()}
        for number, state in optimizer.state_dict()["state"].items():
            kept |= {f"{_OPTIMIZER}{number}.{name}": value for name, value in state.items() if value is not None}
        tensors = {
            name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in kept.items()
        }
        metadata = {"format": "pt", _HEADER: json.dumps(asdict(progress))}
        write_tensors(self.path / CHECKPOINT, tensors, metadata)

    def load_checkpoint(self, detector: nn.Module, optimizer: Optimizer) -> TrainingProgress:
        """Go on from the checkpoint, if there is one; lines of the log about later steps are dropped.

        Raises:
            BadRun: it is damaged.
        """
        file = self.path / CHECKPOINT
        if not file.exists():
            self._folder.truncate_log(0)
            return TrainingProgress()
        try:
            progress = TrainingProgress(**json.loads(read_metadata(file)[_HEADER]))
            with safetensors.safe_open(file, "pt") as opened:
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 -- no mapping
            detector.load_state_dict(
                {name.removeprefix(_DETECTOR): each for name, each in tensors.items() if name.startswith(_DETECTOR)}
            )
            _load_optimizer(optimizer, tensors)
        except (LookupError, RuntimeError, TypeError, ValueError, RecursionError, safetensors.SafetensorError) as error:
            raise BadRun(f"{file} is damaged: remove it to begin anew") from error
        self._folder.truncate_log(progress.steps)
        return progress

    def remove_checkpoint(self) -> None:
        """Remove it, once the detector is there."""
        (self.path / CHECKPOINT).unlink(missing_ok=True)

    def _check(self) -> dict[str, Any]:
        """What was chosen before; refuse a folder of something else."""
        config = self.path / CONFIG
        if not config.exists():
            if any((self.path / name).exists() for name in (DETECTOR_FILE, CHECKPOINT)):
                raise BadRun(f"{self.path} is a detector without {CONFIG}: {_REMEDY}")
            return {}
        try:
            content = tomllib.loads(config.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise BadRun(f"{config} is damaged: {_REMEDY}") from error
        found, chosen = content.get("detector"), content.get("chosen")
        if not isinstance(found, dict) or not isinstance(chosen, dict):
            raise BadRun(f"{self.path} is no detector, but a run or a classifier: choose another --out")
        for name in [*self.asked, *found]:
            if found.get(name) != self.asked.get(name):
                if name in ("network", "images"):
                    what = "the weights of MODEL" if name == "network" else "images or boxes"
                    raise BadRun(f"{what} have changed since {self.path} was begun: {_REMEDY}")
                before, now = (each.get(name, "none") for each in (found, self.asked))
                raise BadRun(f"{self.path} was begun with {name} {before}, not {now}: {_REMEDY}")
        return chosen


def _load_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(_OPTIMIZER):
            number, _, what = name.removeprefix(_OPTIMIZER).partition(".")
            states.setdefault(int(number), {})[what] = value
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
