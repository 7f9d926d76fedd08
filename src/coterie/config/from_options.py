"""Turns the options of a command or a call into a source of images and a complete config."""

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from coterie.config.choice import Choice, Scale
from coterie.config.duration import parse_minutes
from coterie.config.facts import Facts, choose_range, measure_facts
from coterie.config.hardware import choose_device, choose_engine
from coterie.config.method_name import check_method_name, split_images
from coterie.config.options import RunOptions
from coterie.config.overrides import parse_settings, set_path, value_at
from coterie.config.schema import PretrainConfig
from coterie.config.start_from import (
    FROM_TAG,
    NAME,
    WEIGHTS,
    absolute_model,
    find_start,
    named,
    plain_start,
    split_tag,
)
from coterie.config.toml import as_strings, from_dict, read_toml, to_dict
from coterie.data.augmentation.view_plan import check_range
from coterie.data.decoding.pixels import ValueRange
from coterie.data.sources.columns import Columns
from coterie.data.sources.open import absolute
from coterie.data.sources.own_data import GivenData
from coterie.data.sources.source import ImageSource
from coterie.errors import BadConfig, BadRun, UserError
from coterie.logger import Logger, NullLogger
from coterie.models.backbone_of_weights import FoundBackbone

PATHS = {
    "backbone": "backbone.name",
    "start_from": "backbone.weights",
    "time": "run.minutes",
    "labels": "columns.labels",
    "image_column": "columns.image",
    "label_column": "columns.label",
    "label_key": "columns.label_key",
    "pages": "columns.pages",
}
"""The setting behind an option, where their names differ."""
LENGTH = ("epochs", "images")
"""The settings that say how long a run is."""


@runtime_checkable
class PlanMethod(Protocol):
    """Completes a preset for given images: :func:`coterie.methods.presets.plan_method`."""

    def __call__(
        self,
        method: str,
        facts: Facts,
        *,
        epochs: int | None,
        batch_size: int | None,
        backbone: str | None,
        start: FoundBackbone | None,
        scale: Scale | None,
    ) -> tuple[PretrainConfig, dict[str, str]]:
        """The config, and the reason for each automatic value by the path of its setting."""


@dataclass(frozen=True)
class Resolved:
    """The images and the complete settings of a run.

    Attributes:
        source: the images.
        config: every setting.
        reasons: the reason for each setting that the preset does not fix, by its path.
    """

    source: ImageSource
    config: PretrainConfig
    reasons: dict[str, str]


class Request:
    """What a caller wants of a run: its images, opened, and its options, from which :meth:`resolved` makes complete settings.

    A run that is resumed keeps its settings: what the caller does not ask for comes from them, and nothing is planned anew.

    Attributes:
        method: the preset; None: it is still to be chosen.
        source: the images.
        planned: whether a preset is completed: neither a config file nor a run that is resumed has the settings.
        requested: values of options by the path of their setting.
        overrides: those of ``--set``.
    """

    def __init__(
        self,
        method: str | None,
        data: tuple[str, ...],
        options: RunOptions,
        *,
        methods: Collection[str],
        plan_method: PlanMethod,
        own: ImageSource | None = None,
        settings: Mapping[str, Any] | None = None,
        saved: Mapping[str, Any] | None = None,
        logger: Logger | None = None,
    ) -> None:
        """Open the images.

        Args:
            method: a preset; may be left out with a config file.
            data: where the images are, or what they are; may be left out with a config file.
            options: the options that all commands about a run share.
            methods: the names of the presets.
            plan_method: completes a preset for given images.
            own: the images, if ``data`` only says what they are.
            settings: further settings of the caller, by path; None values are ignored.
            saved: the settings of the run that is resumed; None for a new run.
            logger: receives the progress of measuring the images.

        Raises:
            UserError: anything that the caller can fix, in one line.
        """
        self.logger, file = logger or NullLogger(), options.get("config")
        overrides = parse_settings(options.get("settings", ()))
        self._saved, self._plan_method, self._methods = saved or {}, plan_method, methods
        self.requested, self.overrides, self._tagged = split_tag(
            _requested(options, settings or {}), overrides, self._saved
        )
        self._content = content = read_toml(file) if file is not None else _taken_over(self._saved)
        if file is None:
            method, data = split_images(method, data, methods)
        if saved and method in methods and method != saved.get("method"):
            raise BadRun(f"--out holds a run of {saved.get('method')}, not of {method}: choose another --out")
        self.method = None if method is None and not content else _check_method(method, content, methods)
        self._data = data or as_strings(content.get("data", []), "data")
        if not self._data:
            raise UserError("name the images: a folder, a list, a glob, *.parquet or *.tar")
        if (self.requested.get("batch_size") or 2) < 2:
            raise BadConfig(f"batch_size is {self.requested['batch_size']}: grouping needs at least 2 images per batch")
        _check_names(self._data)
        self.source = GivenData(self._data, own).open(_columns(content, self.requested, self.overrides), self.logger)
        self.planned = not content
        self._range_reason = self._measure_range()

    def asked(self, path: str) -> Any:
        """What the caller gives for a setting; None: nothing."""
        return named(path, self.requested, self.overrides)

    def resolved(self, choice: Choice = Choice()) -> Resolved:  # noqa: B008
        """Complete the settings: ``--set`` overrides options, which override the config file or the preset.

        Args:
            choice: what is chosen in place of the preset; its epochs also take the place of a length that was requested.

        Raises:
            UserError: anything that the caller can fix, in one line.
        """
        method = _check_method(self.method or choice.method, self._content, self._methods)
        requested, overrides = self.requested, self.overrides
        if choice.epochs is not None:
            requested = {path: value for path, value in requested.items() if path not in LENGTH} | {
                "epochs": choice.epochs
            }
            overrides = [(path, value) for path, value in overrides if path not in LENGTH]
        content, reasons = copy.deepcopy(self._content), dict[str, str]()
        if content:
            _set_length(content, requested, len(self.source))
        else:
            content, reasons = self._planned(method, choice, requested, overrides)
        content |= {"data": list(self._data), "method": method}
        if self._tagged is not None:
            set_path(content, WEIGHTS, self._tagged)
            reasons[WEIGHTS] = FROM_TAG
        reasons = _override(content, reasons, requested, overrides)
        if self._range_reason:
            reasons["views.range"] = self._range_reason
        if choice.epochs is not None:
            reasons["epochs"] = choice.reasons.get("epochs", "chosen")
        _make_paths_absolute(content)
        return Resolved(self.source, *_complete(from_dict(content), self.source, reasons, self._saved, self.logger))

    def _planned(
        self,
        method: str,
        choice: Choice,
        requested: Mapping[str, Any],
        overrides: Sequence[tuple[str, Any]],
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """Complete the preset for the images, and for the network in the weights to start from."""
        images, name = requested.get("images", 0), named(NAME, requested, overrides)
        config, reasons = self._plan_method(
            method,
            self.facts,
            epochs=requested.get("epochs") or (-(-images // self.facts.images) if images > 0 else None),
            batch_size=requested.get("batch_size"),
            backbone=name if isinstance(name, str) else None,
            start=self.start,
            scale=choice.scale,
        )
        if self._channels[1]:
            reasons["views.channels"] = "from the weights"
        return to_dict(config), reasons | {
            path: why for path, why in choice.reasons.items() if path in reasons or path == "method"
        }

    @cached_property
    def start(self) -> FoundBackbone | None:
        """The network in the weights to start from; None: it starts from random weights."""
        return find_start(
            {**self.requested, **({} if self._tagged is None else {WEIGHTS: self._tagged})}, self.overrides
        )

    @cached_property
    def _channels(self) -> tuple[int | None, bool]:
        """The number of channels, if it is not measured, and whether it is that of the weights."""
        channels = named("views.channels", {}, self.overrides)
        if type(channels) is int and channels > 0:
            return channels, False
        of_weights = self.start is not None and self.start.config.channels == 1
        return (1 if of_weights else None), of_weights

    @cached_property
    def facts(self) -> Facts:
        """Facts about the images."""
        return measure_facts(self.source, self._channels[0], self.logger, self._value_range)

    def _measure_range(self) -> str:
        """Replace ``--set views.range=auto`` by numbers, those of the run that is resumed; returns how they were found."""
        given = named("views.range", {}, self.overrides)
        if given != "auto":
            if isinstance(given, str):
                raise BadConfig(f"--set views.range={given}: give two numbers, such as [-1000,1000], or auto")
            return ""
        found, why = value_at(self._saved, "views.range"), "as measured at its start"
        if found is None:
            stored = value_at(self._content, "views.channels")
            channels = self._channels[0] or (stored if type(stored) is int and stored > 0 else None)
            found, why = choose_range(self.source, channels, self.logger)
        kept = [(path, value) for path, value in self.overrides if path != "views.range"]
        self.overrides = [*kept, ("views.range", list(found))]
        return why

    @property
    def _value_range(self) -> ValueRange | None:
        """What ``--set views.range`` says; another type than two numbers is refused where all settings are."""
        given = named("views.range", {}, self.overrides)
        if not isinstance(given, list | tuple) or [type(each) in (int, float) for each in given] != [True, True]:
            return None
        check_range((given[0], given[1]))
        return float(given[0]), float(given[1])


def _requested(options: RunOptions, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What options and further settings give, by the path of the setting; None only where ``none`` takes something away."""
    by_path: dict[str, Any] = {PATHS.get(name, name): _plain(value) for name, value in options.items()}
    given = {path: value for path, value in (by_path | dict(settings)).items() if value is not None}
    if (duration := options.get("time")) is not None:
        given[PATHS["time"]] = parse_minutes(duration)
    if WEIGHTS in given:
        given[WEIGHTS] = plain_start(given[WEIGHTS])
    return {path: value for path, value in given.items() if path not in ("config", "settings")}


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _columns(content: Mapping[str, Any], requested: Mapping[str, Any], overrides: Sequence[tuple[str, Any]]) -> Columns:
    """Where images and labels are: needed before the settings are complete, to open the images."""
    table = {"columns": dict(content.get("columns", {}))}
    for path, value in (*requested.items(), *overrides):
        if path.startswith("columns."):
            set_path(table, path, value)
    try:
        return Columns(**table["columns"])
    except TypeError as error:
        known = ", ".join(each.name for each in fields(Columns))
        raise BadConfig(f"columns: there is a setting that is none of {known} in this table") from error


def _check_names(data: Sequence[str]) -> None:
    for each in data:
        if not each.encode("utf-8", "replace").decode() == each:
            raise UserError(
                f"{each!a} is not UTF-8, so it cannot be saved in config.toml: rename it, or name a link to it"
            )


def _taken_over(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run that is resumed, but for what each command asks for anew: whether to end it early."""
    content = copy.deepcopy(dict(saved))
    if isinstance(content.get("run"), dict):
        content["run"] = {
            name: each for name, each in content["run"].items() if name not in ("early_stop", "on_collapse")
        }
    return content


def _set_length(content: dict[str, Any], requested: dict[str, Any], images: int) -> None:
    """Let ``--epochs`` or ``--images`` alone replace both settings of a file, in place."""
    if "epochs" in requested and "images" not in requested:
        content.pop("images", None)
    elif "images" in requested and "epochs" not in requested:
        content["epochs"] = max(1, -(-requested["images"] // images))


def _make_paths_absolute(content: dict[str, Any]) -> None:
    """Make the paths in settings valid in any folder, in place. A value of the wrong type stays, to be refused later."""
    tables = [(content, "data"), *((content.get("probe"), name) for name in ("train", "test"))]
    for table, name in tables:
        if isinstance(table, dict) and isinstance(table.get(name), list):
            table[name] = [absolute(each) if isinstance(each, str) else each for each in table[name]]
    columns, backbone = content.get("columns"), content.get("backbone")
    if isinstance(columns, dict) and isinstance(columns.get("labels"), str):
        columns["labels"] = absolute(columns["labels"])
    if isinstance(backbone, dict) and isinstance(backbone.get("weights"), str):
        backbone["weights"] = absolute_model(backbone["weights"])


def _override(
    content: dict[str, Any],
    reasons: dict[str, str],
    requested: Mapping[str, Any],
    overrides: Sequence[tuple[str, Any]],
) -> dict[str, str]:
    """Apply options, then ``--set``, to the settings in place; returns the reasons that hold afterwards."""
    for path, value in requested.items():
        set_path(content, path, value)
        reasons[path] = "requested"
    for path, value in overrides:
        if path.partition(".")[0] in ("data", "method", "custom"):
            raise BadConfig(f"--set {path}: this is not a setting; write METHOD DATA on the command line")
        set_path(content, path, value)
        whole, _, last = path.rpartition(".")
        changed = whole if value is None and last.isdecimal() else path  # of a list that an entry is removed from
        reasons = {known: why for known, why in reasons.items() if not _overridden(known, changed)}
        reasons[changed] = "set by you"
    return reasons


def _complete(
    config: PretrainConfig, source: ImageSource, reasons: dict[str, str], saved: Mapping[str, Any], logger: Logger
) -> tuple[PretrainConfig, dict[str, str]]:
    """Fill in what even a config file may leave to images and machine: mean, std and engine of the views."""
    views, before = config.views, saved.get("views", {})
    alike = before.get("channels") == views.channels and tuple(before.get("range") or ()) == (views.range or ())
    if views.mean is None and "mean" in before and alike:
        views = replace(views, mean=tuple(before["mean"]), std=tuple(before["std"]))
    if views.mean is None:
        facts = measure_facts(source, views.channels, logger, views.range)
        views = replace(views, mean=facts.mean, std=facts.std)
    if views.engine == "auto":
        engine, why = choose_engine("auto", choose_device(config.run.device))
        views, reasons = replace(views, engine=engine), reasons | {"views.engine": why}
    return replace(config, views=views), reasons


def _check_method(method: str | None, content: Mapping[str, Any], methods: Collection[str]) -> str:
    """The name of the method, from the caller or the config file, which must not disagree."""
    name = content.get("method") if method is None else method
    if isinstance(name, str) and name in methods and name == content.get("method", name):
        return name
    if content and method in methods:
        raise BadConfig(f"{name!r} is not the method of the config file: with --config, leave it out")
    if content and method is not None:
        raise BadConfig(f"{name!r} is not a method: with --config, leave METHOD DATA out, or write both")
    return check_method_name(None if name is None else str(name), methods)


def _overridden(known: str, path: str) -> bool:
    """Whether setting ``path`` voids the reason for ``known``: another kind of a part keeps nothing but its counts."""
    if path.startswith(f"{known}."):  # an entry of the setting that the reason is for
        return True
    place = path.removesuffix(".kind")
    return f"{known}.".startswith(f"{place}.") and (place == path or not known.endswith(".counts"))
