"""Checks that a folder holds the run that is to be resumed."""

from typing import Any

from coterie.config.schema import PretrainConfig
from coterie.config.toml import from_dict, read_toml, to_dict
from coterie.errors import BadRun
from coterie.training import checkpoint_io
from coterie.training.run_folder import RunFolder


def refuse_another_run(folder: RunFolder, config: PretrainConfig) -> None:
    """Compare the settings with those of the run in the folder, apart from the table ``run`` and the engine of the views.

    Raises:
        BadRun: they differ; the message names the first setting that does.
    """
    if not folder.config.exists() or not checkpoint_io.list_checkpoints(folder.checkpoints):
        return
    saved = from_dict(read_toml(folder.config))
    if saved.custom != config.custom:
        raise BadRun(
            f"{folder.path} holds a run with custom parts ({', '.join(saved.custom) or 'none'}), not "
            f"({', '.join(config.custom) or 'none'}): pass the same coterie.CustomParts to coterie.pretrain(parts=...), or "
            "choose another --out"
        )
    before, now = to_dict(saved), to_dict(config)
    for each in (before, now):
        each.pop("run", None)
        each["views"].pop("engine", None)
    different = _first_difference(before, now)
    if different:
        raise BadRun(
            f"{folder.path} holds a run with other settings ({different}): choose another --out, or resume it with "
            f"--config {folder.config}"
        )


def _first_difference(before: Any, now: Any, path: str = "") -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            difference = _first_difference(before.get(key), now.get(key), f"{path}.{key}".lstrip("."))
            if difference:
                return difference
        return ""
    return "" if before == now else f"{path}: {before} -> {now}"
