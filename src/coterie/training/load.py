"""A run read back from its folder."""

from dataclasses import dataclass
from pathlib import Path

import torch

from coterie.config.schema import PretrainConfig
from coterie.config.toml import from_dict, read_run_toml
from coterie.errors import BadRun
from coterie.training import checkpoint
from coterie.training.build import build_student
from coterie.training.student import Student


@dataclass(frozen=True)
class LoadedRun:
    """What a run's folder holds of it.

    Attributes:
        config: its settings.
        student: as the last whole checkpoint has it, in evaluation mode.
        images: how many the run sees.
        remarks: a line for each damaged checkpoint that was passed over.
    """

    config: PretrainConfig
    student: Student
    images: int
    remarks: tuple[str, ...]


def load_run(run: str | Path, device: torch.device | str = "cpu") -> LoadedRun:
    """What the folder of a run, finished or not, holds of it.

    Raises:
        BadRun: there is no checkpoint, or it does not fit.
    """
    config = from_dict(read_run_toml(run))
    _, state, passed_over = checkpoint.load(Path(run) / "checkpoint")
    if state is None:
        raise BadRun(f"{run} has no checkpoint: it is no run's folder, or nothing is saved yet")
    student = build_student(config, device, starting_weights=False)
    with checkpoint.restoring(Path(run) / "checkpoint"):
        student.load_state_dict(state["student"])
        images = int(state["extra"]["images"])
    return LoadedRun(config, student.eval(), images, tuple(passed_over))
