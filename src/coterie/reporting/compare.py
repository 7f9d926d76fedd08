"""Several runs, read from their folders to be set side by side."""

import math
from collections.abc import Sequence
from pathlib import Path

import safetensors

from coterie.config.toml import read_run_toml
from coterie.errors import UserError
from coterie.reporting.comparison import ComparedRuns, compared
from coterie.reporting.run_figures import Run
from coterie.training import checkpoint
from coterie.training.run_folder import read_records

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def compare(runs: Sequence[str | Path]) -> ComparedRuns:
    """Set runs side by side: what they are, how far they are, and every figure that their folders hold.

    A run that is unfinished, or has a damaged file, is taken with what it has, and a remark says so.

    Args:
        runs: two folders of runs or more.

    Raises:
        UserError: fewer than two, one of them twice, or a folder without a run.
    """
    folders = [Path(run) for run in runs]
    if len(folders) < 2:
        raise UserError("name two runs or more to compare")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("the same run is named twice: name each once")
    return compared([_read(folder, name) for folder, name in zip(folders, _names(folders), strict=True)])


def _names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path, and as many parts before it as tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-length:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def _read(folder: Path, name: str) -> Run:
    settings = read_run_toml(folder)
    records, found = read_records(folder), checkpoint.list_checkpoints(folder / "checkpoint")
    images = records.facts.get("images")
    return Run(
        name,
        settings,
        records.log,
        records.evaluation,
        images=images if isinstance(images, int) else None,
        parameters=_parameters(folder / "model.safetensors"),
        steps=found[0][0] if found else None,
        remarks=records.remarks,
    )


def _parameters(file: Path) -> int | None:
    """How many weights the backbone has, by the header of its file."""
    try:
        with safetensors.safe_open(file, "pt") as opened:
            names = [name for name in opened.keys() if not name.endswith(BUFFERS)]  # noqa: SIM118 -- it is no dictionary
            sizes: list[list[int]] = [opened.get_slice(name).get_shape() for name in names]
    except (OSError, safetensors.SafetensorError):
        return None
    return sum(map(math.prod, sizes))
