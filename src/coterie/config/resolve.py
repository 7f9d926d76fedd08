"""From the options of a command or a call to a source of images and a whole config."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from coterie.config.facts import Facts, measure_facts
from coterie.config.hardware import choose_device, choose_engine
from coterie.config.options import RunOptions
from coterie.config.overrides import parse_override, set_path
from coterie.config.schema import PretrainConfig
from coterie.config.toml import as_strings, from_dict, read_toml, to_dict
from coterie.data.sources.open import open_source
from coterie.data.sources.source import ImageSource
from coterie.errors import BadConfig, UserError

PATHS = {"backbone": "backbone.name"}
"""The setting behind an option, where it is not called the same."""


@runtime_checkable
class PlanMethod(Protocol):
    """Fills a preset in for given images: :func:`coterie.methods.presets.plan_method`."""

    def __call__(
        self, method: str, facts: Facts, *, epochs: int | None, batch_size: int | None, backbone: str | None
    ) -> tuple[PretrainConfig, dict[str, str]]:
        """The config, and the reason for each automatic value by the path of its setting."""


@dataclass(frozen=True)
class Resolved:
    """What a run will be.

    Attributes:
        source: the images.
        config: every setting.
        reasons: why, by path, for the settings that are not simply the preset's.
    """

    source: ImageSource
    config: PretrainConfig
    reasons: dict[str, str]


def resolve(
    method: str | None,
    data: tuple[str, ...],
    options: RunOptions,
    *,
    methods: Collection[str],
    plan_method: PlanMethod,
    settings: Mapping[str, Any] | None = None,
) -> Resolved:
    """Open the images and complete the config: ``--set`` over options over the config file or the preset.

    Args:
        method: a preset; may be left out with a config file.
        data: folders, lists, globs, parquet files, tar shards; may be left out with a config file.
        options: shared by all commands that concern a run.
        methods: the names of the presets.
        plan_method: fills a preset in.
        settings: what else the caller sets, by path; None: as without it.

    Raises:
        UserError: anything that the caller can fix, in one line.
    """
    file, overrides = options.get("config"), [parse_override(text) for text in options.get("settings", ())]
    named: dict[str, Any] = {PATHS.get(name, name): value for name, value in options.items()}
    wanted = {
        path: value
        for path, value in (named | dict(settings or {})).items()
        if value is not None and path not in ("config", "settings")
    }
    chosen = read_toml(file) if file is not None else {}
    data = data or as_strings(chosen.get("data", []), "data")
    if not data:
        raise UserError("name the images: a folder, a list, a glob, *.parquet or *.tar")
    method = _check_method(method, chosen, methods)
    if (wanted.get("batch_size") or 2) < 2:
        raise BadConfig(f"batch_size is {wanted['batch_size']}: grouping needs at least 2 images per batch")
    for each in data:
        if not each.encode("utf-8", "replace").decode() == each:
            raise UserError(
                f"{each!a} is not UTF-8, so it cannot be saved in config.toml: rename it, or name a link to it"
            )
    source = open_source(*data)
    reasons: dict[str, str] = {}
    if file is None:
        channels = next((value for path, value in overrides if path == "views.channels"), None)
        images = wanted.get("images", 0)
        config, reasons = plan_method(
            method,
            measure_facts(source, channels if type(channels) is int and channels > 0 else None),
            epochs=wanted.get("epochs") or (-(-images // len(source)) if images > 0 else None),
            batch_size=wanted.get("batch_size"),
            backbone=wanted.get("backbone.name"),
        )
        chosen = to_dict(config)
    chosen |= {"data": list(data), "method": method}
    reasons = _override(chosen, reasons, wanted, overrides)
    return Resolved(source, *_completed(from_dict(chosen), source, reasons))


def _override(
    chosen: dict[str, Any], reasons: dict[str, str], wanted: Mapping[str, Any], overrides: Sequence[tuple[str, Any]]
) -> dict[str, str]:
    """Put options, then ``--set``, into the settings; the reasons that hold then."""
    for path, value in wanted.items():
        set_path(chosen, path, value)
        reasons[path] = "asked for"
    for path, value in overrides:
        if path.partition(".")[0] in ("data", "method", "custom"):
            raise BadConfig(f"--set {path}: this is not a setting; write METHOD DATA on the command line")
        set_path(chosen, path, value)
        reasons = {known: why for known, why in reasons.items() if not _overridden(known, path)} | {path: "set by you"}
    return reasons


def _completed(
    config: PretrainConfig, source: ImageSource, reasons: dict[str, str]
) -> tuple[PretrainConfig, dict[str, str]]:
    """What even a whole config may leave to the images and the machine: mean, std and the engine of the views."""
    views = config.views
    if views.mean is None:
        facts = measure_facts(source, views.channels)
        views = replace(views, mean=facts.mean, std=facts.std)
    if views.engine == "auto":
        engine, why = choose_engine("auto", choose_device(config.run.device))
        views, reasons = replace(views, engine=engine), reasons | {"views.engine": why}
    return replace(config, views=views), reasons


def _check_method(method: str | None, chosen: Mapping[str, Any], methods: Collection[str]) -> str:
    """The method by its name, from the caller or the config file, which may not disagree."""
    given = chosen.get("method") if method is None else method
    if isinstance(given, str) and given in methods and given == chosen.get("method", given):
        return given
    if chosen and method is not None:
        raise BadConfig(f"{given!r} is not the method of the config file: with --config, leave it out")
    if given is None or Path(str(given)).exists():
        raise BadConfig(f"name a method before the images: one of {', '.join(sorted(methods))}")
    near = difflib.get_close_matches(str(given), methods, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(sorted(methods))}"
    raise BadConfig(f"unknown method {given!r}; {hint}")


def _overridden(known: str, path: str) -> bool:
    """Whether a reason no longer holds when ``path`` is set: another kind of a part keeps nothing but its counts."""
    if path.startswith(f"{known}."):  # a part of what the reason was for
        return True
    place = path.removesuffix(".kind")
    return f"{known}.".startswith(f"{place}.") and (place == path or not known.endswith(".counts"))
