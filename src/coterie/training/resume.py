"""What a resumed run takes over, what may change in it, and what is refused."""

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coterie.config.describe import REQUESTED
from coterie.config.from_options import PATHS
from coterie.config.schema import PretrainConfig
from coterie.config.start_from import absolute_model
from coterie.config.toml import from_dict, read_toml, to_dict
from coterie.data.sources.fingerprint import Fingerprint
from coterie.data.sources.open import absolute
from coterie.errors import BadRun
from coterie.formatting import first_few
from coterie.paths import CLASSIFIER_FILE, expand
from coterie.training import checkpoint_io
from coterie.training.custom_parts import PASS_AGAIN
from coterie.training.run_folder import CONFIG, RunFolder

MAY_CHANGE = ("data", "epochs", "images", "probe", "run", "custom")
"""Tables and settings that are compared in another way, or not: what a run is computed, saved and probed with may change."""


@dataclass(frozen=True)
class Resumed:
    """The run in a folder that is to be resumed.

    Attributes:
        total_steps: its steps, by its settings.
        moved_from: where its images were, if they are elsewhere now; else ().
    """

    total_steps: int
    moved_from: tuple[str, ...] = ()


def saved_settings(out: str | Path) -> dict[str, Any] | None:
    """The settings of the run in a folder, if it has been saved there; None: a run in it starts anew.

    Raises:
        BadConfig: its config.toml is damaged.
        BadRun: the folder holds a classifier.
    """
    if (expand(out) / CLASSIFIER_FILE).exists():
        raise BadRun(f"{out} is a classifier, not a run: choose another --out")
    config = expand(out) / CONFIG
    saved = config.is_file() and checkpoint_io.list_checkpoints(config.parent / "checkpoint")
    return read_toml(config) if saved else None


def check_same_run(
    folder: RunFolder,
    config: PretrainConfig,
    images: int,
    fingerprint: Fingerprint,
    reasons: Mapping[str, str] | None = None,
) -> Resumed | None:
    """Compare settings and images with those of the run in the folder.

    The table ``run``, the probe and the engine of the views may differ, the images may be stored elsewhere, and the run may be
    longer.

    Args:
        folder: the folder, which may hold a run.
        config: the settings.
        images: the number of images.
        fingerprint: which images they are.
        reasons: the reason for each value, by the path of its setting: shows which the user has asked for.

    Returns:
        The run to resume; None if the folder has no checkpoint.

    Raises:
        BadRun: it is another run, or a longer one.
    """
    if not folder.config.exists() or not checkpoint_io.list_checkpoints(folder.checkpoints):
        return None
    saved = from_dict(read_toml(folder.config))
    if saved.custom != config.custom:
        raise BadRun(
            f"{folder.path} holds a run with custom parts ({', '.join(saved.custom) or 'none'}), not "
            f"({', '.join(config.custom) or 'none'}): {PASS_AGAIN}, or choose another --out"
        )
    _check_settings(folder, saved, config, reasons or {})
    moved = _check_images(folder, saved, config, fingerprint)
    before, now = saved.total_steps(images), config.total_steps(images)
    if now < before:
        length = "images" if config.images is not None else "epochs"
        raise BadRun(
            f"{folder.path} holds a run of {_length(saved)} ({before} steps), and {_length(config)} ({now} steps) are fewer: a "
            f"run can be extended but not shortened; leave out --{length} to resume it, or choose another --out"
        )
    return Resumed(before, saved.data if moved else ())


def _length(config: PretrainConfig) -> str:
    return f"{config.epochs} epochs" if config.images is None else f"{config.images} images"


def _check_settings(
    folder: RunFolder, saved: PretrainConfig, config: PretrainConfig, reasons: Mapping[str, str]
) -> None:
    """Refuse other settings, with how to resume the run in spite of them."""
    before, now = _compared(saved), _compared(config)
    different = list(_differences(before, now))
    if not different:
        return
    shown = ", ".join(f"{path}: {_short(old)} -> {_short(new)}" for path, old, new in different[:3])
    more = f" and {len(different) - 3} more" if len(different) > 3 else ""
    asked = [_asked_for(path, reasons) for path, *_ in different]
    wanted = list(dict.fromkeys(each for each in asked if each))
    if all(asked):
        remedy = f"leave out {' and '.join(wanted)} to resume it"
    else:
        remedy = f"resume it with --config {folder.config} in place of other settings"
    raise BadRun(
        f"{folder.path} holds a run with other settings ({shown}{more}), on which what it has learned depends: {remedy}, or "
        "choose another --out"
    )


def _compared(config: PretrainConfig) -> dict[str, Any]:
    """The settings that must stay the same."""
    settings = to_dict(config)
    for name in MAY_CHANGE:
        settings.pop(name, None)
    settings["views"].pop("engine", None)
    columns = settings["columns"]
    settings["columns"] = {"image": columns.get("image"), "pages": columns.get("pages", "first")}
    if "weights" in settings["backbone"]:
        settings["backbone"]["weights"] = absolute_model(settings["backbone"]["weights"])
    return settings


def _differences(before: Any, now: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Path and both values of each setting that differs."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            yield from _differences(before.get(key), now.get(key), f"{path}.{key}".lstrip("."))
    elif _tables(before) and _tables(now) and len(before) == len(now):
        for number, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from _differences(old, new, f"{path}.{number}")
    elif before != now:
        yield path, before, now


def _tables(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


def _short(value: Any) -> str:
    """A value on a line that may hold several."""
    return textwrap.shorten(str(value), 60, placeholder=" ...")


def _asked_for(path: str, reasons: Mapping[str, str]) -> str | None:
    """The option by which the user has set a path, or the table or the kind that it belongs to; None: by none."""
    for asked, why in reasons.items():
        place = asked.removesuffix(".kind")
        if why in REQUESTED and f"{path}.".startswith(f"{place}."):
            option = next((option for option, setting in PATHS.items() if setting == asked), asked)
            return f"--{option.replace('_', '-')}" if why == "requested" else f"--set {asked}"
    return None


def _check_images(folder: RunFolder, saved: PretrainConfig, config: PretrainConfig, fingerprint: Fingerprint) -> bool:
    """Refuse other images, with how many were added, removed or changed; returns whether the same ones are elsewhere now."""
    known = Fingerprint.read(folder.images)
    if known is None:  # a run of an earlier version
        if tuple(map(absolute, saved.data)) != tuple(map(absolute, config.data)):
            raise BadRun(
                f"{folder.path} holds a run on {first_few(saved.data)}, and has no list of its images to compare with "
                f"{first_few(config.data)}: name the images as at its start, or choose another --out"
            )
        return False
    if known.same_images(fingerprint):
        return known.moved(fingerprint)
    model = Path(folder.model).absolute()
    raise BadRun(
        f"{folder.path} holds a run on other images than {first_few(config.data)} ({known.differences(fingerprint)}): restore "
        f"them to resume it, or start a new run from its weights: add --start-from {model} and choose another --out"
    )
