"""From what a person wrote to a source and whole settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coterie.config.hardware import choose_device, choose_engine
from coterie.config.overrides import parse_override, set_path
from coterie.config.schema import PretrainConfig
from coterie.config.toml import as_strings, from_dict, read_toml, to_dict
from coterie.data.sources.open import open_source
from coterie.data.sources.source import ImageSource
from coterie.data.statistics import measure
from coterie.errors import BadConfig, UserError
from coterie.methods.planner import Facts, Planner
from coterie.methods.presets import METHODS


@dataclass(frozen=True)
class Resolved:
    """What a run will be.

    Attributes:
        source: the images.
        config: every setting.
        reasons: why, for the settings that were not simply the preset's: by path.
    """

    source: ImageSource
    config: PretrainConfig
    reasons: dict[str, str]


def resolve(
    method: str | None,
    data: tuple[str, ...],
    config: str | Path | None = None,
    flags: Mapping[str, Any] | None = None,
    settings: Sequence[str] = (),
) -> Resolved:
    """The source and the whole settings: ``settings`` over ``flags`` over ``config`` or the preset over automatic values."""
    wishes = {path: value for path, value in (flags or {}).items() if value is not None}
    chosen = read_toml(config) if config is not None else {}
    data = data or as_strings(chosen.get("data", []), "data")
    if not data:
        raise UserError("name the images: a folder, a list, a glob, *.parquet or *.tar")
    given = chosen.get("method", method) if method is None else method
    if given not in list(METHODS) or given != chosen.get("method", given):
        hint = "; with --config, leave out the method, or write it before the images" if chosen else ""
        raise BadConfig(f"{given} is not the method: choose one of {', '.join(sorted(METHODS))}{hint}")
    if (wishes.get("batch_size") or 2) < 2:
        raise BadConfig(f"batch_size is {wishes['batch_size']}: grouping needs at least 2 images a batch")
    for each in data:
        if not each.encode("utf-8", "replace").decode() == each:
            raise UserError(f"{each!a} is not UTF-8, so it cannot be written down: rename it, or give a link to it")
    source = open_source(*data)
    reasons: dict[str, str] = {}
    if config is None:
        channels = next((value for path, value in map(parse_override, settings) if path == "views.channels"), None)
        images = wishes.get("images", 0)
        planner = Planner(
            _facts(source, channels if type(channels) is int and channels > 0 else None),
            epochs=wishes.get("epochs") or (-(-images // len(source)) if images > 0 else None),
            batch_size=wishes.get("batch_size"),
            backbone=wishes.get("backbone.name"),
        )
        chosen = to_dict(METHODS[method or ""](planner))
        reasons = planner.reasons
    chosen |= {"data": list(data)} | ({"method": method} if method else {})
    for path, value in wishes.items():
        set_path(chosen, path, value)
        reasons[path] = "asked for"
    for path, value in map(parse_override, settings):
        if path.partition(".")[0] in ("data", "method"):
            raise BadConfig(f"--set {path}: name it as it stands on the command line, METHOD DATA")
        set_path(chosen, path, value)
        reasons = {known: why for known, why in reasons.items() if not _overridden(known, path)} | {path: "set by you"}
    wanted = from_dict(chosen)
    if wanted.views.mean is None:
        facts = _facts(source, wanted.views.channels)
        wanted = replace(wanted, views=replace(wanted.views, mean=facts.mean, std=facts.std))
    if wanted.views.engine == "auto":
        engine, reasons["views.engine"] = choose_engine("auto", choose_device(wanted.run.device))
        wanted = replace(wanted, views=replace(wanted.views, engine=engine))
    return Resolved(source, wanted, reasons)


def _overridden(known: str, path: str) -> bool:
    """Whether a reason no longer holds when ``path`` is set: another kind of a part keeps nothing but its counts."""
    if path.startswith(f"{known}."):  # a part of what the reason was for
        return True
    place = path.removesuffix(".kind")
    return f"{known}.".startswith(f"{place}.") and (place == path or not known.endswith(".counts"))


def _facts(source: ImageSource, channels: int | None) -> Facts:
    measured = measure(source, channels)
    return Facts(
        images=len(source),
        side=min(measured.median_size),
        channels=measured.channels,
        bits=measured.bits,
        mean=measured.mean,
        std=measured.std,
    )
