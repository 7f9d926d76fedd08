"""Paths as users write them: ``~`` is expanded everywhere, and a run's folder that is none is named for what it is."""

import os
from pathlib import Path

from coterie.errors import BadRun

CLASSIFIER_FILE, DETECTOR_FILE = "classifier.safetensors", "detector.safetensors"
SEGMENTER_FILE = "segmenter.safetensors"
"""In the folder of a classifier, a detector or a segmenter that ``coterie train`` made."""


def expand(path: str | os.PathLike[str]) -> Path:
    """Expand ``~`` and ``~user``; a user that does not exist leaves the path as it is.

    Args:
        path: any path on this machine.
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111 -- pathlib's raises where there is no such user


def run_folder(run: str | os.PathLike[str], *holds: str) -> Path:
    """Check that a path is a run's folder.

    Args:
        run: the path.
        holds: files or folders of it that show that it has been saved; it needs one of them.

    Returns:
        The path, expanded.

    Raises:
        BadRun: it does not exist, is something else, or is a run that has not been saved yet.
    """
    path = expand(run)
    if not os.path.lexists(path):
        raise BadRun(f"{run} does not exist: name the folder of a run, which coterie pretrain --out RUN makes")
    if not path.is_dir():
        raise BadRun(f"{run} is a file: name the folder of a run")
    for file, what in ((CLASSIFIER_FILE, "classifier"), (DETECTOR_FILE, "detector"), (SEGMENTER_FILE, "segmenter")):
        if (path / file).exists():
            raise BadRun(f"{run} is a {what}, not a run: use coterie predict or coterie evaluate with it")
    if any((path / name).exists() for name in holds):
        return path
    if not (path / "config.toml").is_file():
        raise BadRun(f"{run} is not a run's folder: it has no {' or '.join(('config.toml', *holds))}")
    if holds:
        raise BadRun(f"{run} is a run that has not been saved yet: wait for its first checkpoint, or resume it")
    return path
