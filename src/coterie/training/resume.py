"""Whether the run that a folder holds is the one that is asked for."""

from typing import Any

from coterie.config.schema import PretrainConfig
from coterie.config.toml import from_dict, read_toml, to_dict
from coterie.errors import BadRun
from coterie.training import checkpoint
from coterie.training.run_folder import RunFolder


def refuse_another_run(folder: RunFolder, config: PretrainConfig) -> None:
    """Compare the settings with those of the run in the folder, apart from what changes its speed or rounds a blur.

    Raises:
        BadRun: they differ; the message names the first setting that does.
    """
    if not folder.config.exists() or not checkpoint.list_checkpoints(folder.checkpoints):
        return
    before, now = to_dict(from_dict(read_toml(folder.config))), to_dict(config)
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
            found = _first_difference(before.get(key), now.get(key), f"{path}.{key}".lstrip("."))
            if found:
                return found
        return ""
    return "" if before == now else f"{path}: {before} -> {now}"
