"""Loads a run from its folder."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from coterie.config.schema import PretrainConfig
from coterie.config.toml import from_dict, read_run_toml
from coterie.data.loading.center_crop import Preprocessing
from coterie.errors import BadRun
from coterie.exporting.backbone_file import WEIGHTS, check_fits
from coterie.paths import run_folder
from coterie.training import checkpoint_io
from coterie.training.build import build_student
from coterie.training.custom_parts import CustomParts
from coterie.training.run_state import RunState
from coterie.training.student import GroupPrediction, Student, nearest_groups, preprocessing_of


@dataclass(frozen=True)
class LoadedRun:
    """A run as its folder holds it.

    Attributes:
        folder: the run's folder.
        config: its settings.
        student: the student of the newest intact checkpoint, in evaluation mode; without groups if those were custom.
        images: number of images that the run trains on.
        remarks: a line for each damaged checkpoint that was skipped.
    """

    folder: Path
    config: PretrainConfig
    student: Student
    images: int
    remarks: tuple[str, ...]

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """How whole images are prepared for the backbone."""
        return preprocessing_of(self.config)

    @cached_property
    def nearest_groups(self) -> GroupPrediction:
        """Maps embeddings to groups and their probabilities; see :func:`coterie.training.student.nearest_groups`."""
        return nearest_groups(self.student, self.config.temperature)


def load_run(run: str | Path, device: torch.device | str = "cpu", backbone: nn.Module | None = None) -> LoadedRun:
    """Load a run, finished or not, from its folder.

    Args:
        run: the run's folder.
        device: device of the student.
        backbone: the module of a run whose backbone was given in Python; stays as it is.

    Raises:
        BadRun: the folder holds no run or no checkpoint, or they do not fit together.
    """
    folder = run_folder(run)
    config = from_dict(read_run_toml(folder))
    _, state, skipped = checkpoint_io.load(folder / "checkpoint")
    if state is None:
        raise BadRun(f"{run} is a run that has not been saved yet: wait for its first checkpoint, or resume it")
    custom = None if backbone is None else CustomParts(backbone=backbone)
    student, weights = build_student(config, device, custom=custom), state["student"]
    if backbone is not None:
        check_fits(folder / WEIGHTS, student.encoder.backbone)
    if any(part.startswith("groups=") for part in config.custom):  # custom groups cannot be built from the settings
        student.groups = None
        weights = {name: each for name, each in weights.items() if not name.startswith("groups.")}
    with checkpoint_io.restoring(folder / "checkpoint"):
        student.load_state_dict(weights)
        images = RunState.from_checkpoint(state).images
    return LoadedRun(folder, config, student.eval(), images, tuple(skipped))
