"""The settings of a run: one field a part, in the order in which data flow through them."""

import difflib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import cattrs
import tomli_w
from cattrs.strategies import configure_tagged_union

from coterie.data.views import ViewPlan
from coterie.errors import BadConfig
from coterie.grouping.assignment import Sinkhorn
from coterie.grouping.groups import LearnedGroupsConfig
from coterie.grouping.memory import MemoryConfig
from coterie.models.backbone import BackboneConfig
from coterie.models.head import HeadConfig
from coterie.schedule import Constant, Cosine, Schedule
from coterie.training.optimizer import AdamWConfig, LarsConfig, OptimizerConfig, SgdConfig


@dataclass(frozen=True)
class ProbeConfig:
    """kNN on labelled images while the run goes on.

    Attributes:
        train: labelled sources whose embeddings vote.
        test: labelled sources whose labels are guessed; empty: every fifth image of ``train``.
        every_epochs: how often, and at the end.
    """

    train: tuple[str, ...]
    test: tuple[str, ...] = ()
    every_epochs: int = 5

    def __post_init__(self) -> None:
        if self.every_epochs < 1:
            raise BadConfig(f"probe.every_epochs is {self.every_epochs}: it must be at least 1")


@dataclass(frozen=True)
class RunConfig:
    """What changes the speed of a run and the trace it leaves, but not what is learned.

    Attributes:
        device: ``auto`` (CUDA if there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto`` (bfloat16 on a CUDA device that has it, else float32), ``float32`` or ``bfloat16``.
        workers: processes that load images; -1: as many as there are cores to spare, at most 16.
        threads: of the main process on a CPU; 0: resolved at the start and kept on a resume, so that a resume is bitwise.
        log_steps: steps between two lines of the log.
        save_steps: steps between two checkpoints; 0: only by the clock and at the end.
        save_minutes: minutes between two checkpoints.
        on_collapse: ``warn`` or ``stop``.
    """

    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    workers: int = -1
    threads: int = 0
    log_steps: int = 10
    save_steps: int = 0
    save_minutes: float = 10.0
    on_collapse: Literal["warn", "stop"] = "warn"

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise BadConfig(f"run.threads is {self.threads}: give 1 or more, or 0 to have it chosen")
        if self.log_steps < 1:
            raise BadConfig(f"run.log_steps is {self.log_steps}: it must be at least 1")
        if self.save_minutes <= 0 or self.save_steps < 0:
            raise BadConfig("run.save_minutes must be above 0 and run.save_steps not negative")


@dataclass(frozen=True)
class PretrainConfig:
    """Everything about a run. ``config.toml`` in its folder is this, resolved.

    Attributes:
        method: the preset that it came from.
        data: folders, lists, globs, parquet files, tar shards.
        views: what is seen of an image.
        backbone: the network that is wanted.
        projector: the head whose rows are grouped.
        groups: how the centers move.
        assignment: how scores become targets.
        temperature: tau, of the prediction.
        memory: past rows that are balanced beside the batch's.
        optimizer: what moves the weights.
        learning_rate: over the run.
        clip: largest norm of the gradient.
        epochs: passes over the images.
        batch_size: images a step, of all processes together.
        seed: of weights, order and views.
        probe: kNN while the run goes on.
        run: what changes the speed but not the result.
    """

    method: str
    data: tuple[str, ...]
    views: ViewPlan
    backbone: BackboneConfig
    learning_rate: Schedule
    epochs: int
    batch_size: int
    projector: HeadConfig = field(default_factory=HeadConfig)
    groups: LearnedGroupsConfig = field(default_factory=LearnedGroupsConfig)
    assignment: Sinkhorn = field(default_factory=Sinkhorn)
    temperature: float = 0.1
    memory: MemoryConfig | None = None
    optimizer: OptimizerConfig = field(default_factory=LarsConfig)
    clip: float | None = None
    seed: int = 0
    probe: ProbeConfig | None = None
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise BadConfig(f"epochs is {self.epochs}: it must be at least 1")
        if self.batch_size < 2:
            raise BadConfig(f"batch_size is {self.batch_size}: grouping needs at least 2 images a batch")
        if not 0 <= self.seed < 2**62:
            raise BadConfig(f"seed is {self.seed}: give a number from 0 to {2**62 - 1}")
        if self.clip is not None and self.clip <= 0:
            raise BadConfig(f"clip is {self.clip:g}: it must be above 0 (or none)")
        if self.temperature <= 0:
            raise BadConfig(f"temperature is {self.temperature:g}: it must be above 0 (SwAV uses 0.1)")
        self._check_roles()
        if self.memory is not None and self.memory.length < self.batch_size:
            raise BadConfig(
                f"memory.length is {self.memory.length}, less than the batch of {self.batch_size}: "
                f"set it to {self.batch_size} or more, or --set memory=none"
            )
        if self.backbone.channels != self.views.channels:
            raise BadConfig(
                f"backbone.channels is {self.backbone.channels} but views.channels is {self.views.channels}: set both alike"
            )

    def _check_roles(self) -> None:
        roles = self.views.roles
        if len(roles.student_views) < 2:
            raise BadConfig("views: the student needs at least 2 views, so that one can predict another's code")
        missing = sorted({*roles.target_views, *roles.grouped_views} - {*roles.student_views})
        if missing:
            raise BadConfig(f"views.student_views leaves out view {missing[0]}, which decides targets or is grouped")
        if self.memory is not None and roles.target_views != roles.grouped_views:
            raise BadConfig("views.target_views and views.grouped_views must be the same where there is a memory")


_TAGS: dict[type, str] = {
    Constant: "constant",
    Cosine: "cosine",
    LarsConfig: "lars",
    SgdConfig: "sgd",
    AdamWConfig: "adamw",
}


def _converter() -> cattrs.Converter:
    """Strict: no unknown key, no guess between types, ``kind`` tells the members of a union apart."""
    converter = cattrs.Converter(forbid_extra_keys=True, omit_if_default=False, detailed_validation=True)

    def read_number(value: Any, _: Any) -> float:
        if type(value) not in (float, int) or not math.isfinite(value):
            raise TypeError(f"{value!r} is not a number")
        return float(value)

    def strictly(kind: type, accepted: tuple[type, ...], words: str) -> None:
        def read(value: Any, _: Any) -> Any:
            if type(value) not in accepted:
                raise TypeError(f"{value!r} is not {words}")
            return kind(value)

        converter.register_structure_hook(kind, read)

    strictly(bool, (bool,), "true or false")
    strictly(int, (int,), "a whole number")
    converter.register_structure_hook(float, read_number)
    strictly(str, (str,), "a text in quotes")
    for union in (Schedule, OptimizerConfig):
        configure_tagged_union(union, converter, tag_name="kind", tag_generator=_TAGS.__getitem__)
    return converter


_CONVERTER = _converter()
_OPTIONAL = {"memory", "clip", "probe", "weights", "mean", "std", "student_views", "target_views", "grouped_views"}
"""The settings that may be left out, which means something."""


def to_dict(config: PretrainConfig) -> dict[str, Any]:
    """The settings as plain nested dictionaries, without those that are None."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(each) for key, each in value.items() if each is not None}
        if isinstance(value, (list, tuple)):
            return [plain(each) for each in value]
        return value

    result: dict[str, Any] = plain(_CONVERTER.unstructure(config))
    return result


def from_dict(settings: Mapping[str, Any]) -> PretrainConfig:
    """The settings from nested dictionaries, read strictly; :class:`BadConfig` names the path, the value and the rule."""
    settings = dict(settings)
    groups = settings.get("groups")
    if isinstance(groups, Mapping) and type(groups.get("counts")) is int:  # one number: one head
        settings["groups"] = {**groups, "counts": [groups["counts"]]}
    _check_shape(PretrainConfig, settings, "")
    try:
        return _CONVERTER.structure(settings, PretrainConfig)
    except cattrs.BaseValidationError as error:
        raise BadConfig(_first_cause(error)) from None


def _check_shape(kind: Any, value: Any, path: str) -> None:
    """Refuse what is no table or no list where one is meant, and a kind that does not exist."""
    members = [each for each in _members(kind) if each is not type(None)]
    tables = [each for each in members if isinstance(each, type) and is_dataclass(each)]
    if tables:
        if not isinstance(value, Mapping):
            raise BadConfig(f"{path} is {value!r}: give a table, with a line for each of its settings")
        if len(tables) > 1:
            known = {_TAGS[each]: each for each in tables}
            if value.get("kind") not in list(known):
                raise BadConfig(f"{path}.kind is {value.get('kind')!r}: choose one of {', '.join(known)}")
            tables = [known[value["kind"]]]
        hints = get_type_hints(tables[0])
        for name, inner in value.items():
            if name in hints:
                _check_shape(hints[name], inner, f"{path}.{name}".lstrip("."))
    elif get_origin(members[0]) is tuple:
        items = get_args(members[0])
        if not isinstance(value, (list, tuple)):
            raise BadConfig(f"{path} is {value!r}: give a list, such as [{value!r}]")
        for number, inner in enumerate(value):
            _check_shape(items[0], inner, f"{path}.{number}")


def texts(value: Any, path: str) -> tuple[str, ...]:
    """A list of texts in a settings file; :class:`BadConfig` if it is something else."""
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise BadConfig(f"{path} is {value!r}: give a list of texts")
    return tuple(value)


def to_toml(config: PretrainConfig) -> str:
    """The text of ``config.toml``."""
    return tomli_w.dumps(to_dict(config))


def read_toml(path: str | Path) -> dict[str, Any]:
    """The settings in a file, not yet checked."""
    path = Path(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadConfig(f"there is no settings file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig(f"cannot read {path}: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise BadConfig(f"{path} is not TOML: {error}") from None


def assigned(text: str) -> tuple[str, Any]:
    """Path and value of ``path=value``; a value is read as TOML, a bare word as text, ``none`` as None."""
    path, equals, value = text.partition("=")
    if not equals:
        raise BadConfig(f"--set {text}: write path=value, for example --set groups.counts=300")
    return path.strip(), _value(value.strip())


def _value(text: str) -> Any:
    if text.lower() == "none":
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def put(settings: dict[str, Any], path: str, value: Any) -> None:
    """Put a value in place of what is at ``path``; None takes it away. :class:`BadConfig` if there is no such setting."""
    known = known_paths(settings)
    if path not in known:
        near = difflib.get_close_matches(path, known, n=1, cutoff=0.5)
        raise BadConfig(f"--set {path}: there is no such setting" + (f"; did you mean {near[0]}?" if near else ""))
    *parents, name = path.split(".")
    place: Any = settings
    for part in parents:
        _refuse_unless_in(place, part, path)
        place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
    _refuse_unless_in(place, name, path)
    if isinstance(place, list):
        place[int(name)] = value
    elif name == "kind" and place.get("kind") != value:  # another kind has other settings: it starts from its own
        place.clear()
        place[name] = value
    elif value is not None:
        place[name] = value
    elif name in _OPTIONAL:
        place.pop(name, None)
    else:
        raise BadConfig(f"--set {path}=none: this setting cannot be left out")


def _refuse_unless_in(place: Any, part: str, path: str) -> None:
    inside = part.isdecimal() and int(part) < len(place) if isinstance(place, list) else isinstance(place, dict)
    if not inside:
        raise BadConfig(f"--set {path}: {place!r} has no part {part}")


def known_paths(settings: Mapping[str, Any]) -> list[str]:
    """Every path that ``--set`` may name, given what the settings hold (the number of crops, the kinds chosen)."""
    found: list[str] = []

    def walk(kind: Any, value: Any, path: str) -> None:
        if path:
            found.append(path)
        kinds = [each for each in _members(kind) if isinstance(each, type) and is_dataclass(each)]
        if len(kinds) > 1:
            tag = value.get("kind") if isinstance(value, Mapping) else None
            kinds = [each for each in kinds if _TAGS[each] == tag]
            found.append(f"{path}.kind")
        for each in kinds:
            hints = get_type_hints(each)
            for one in fields(each):
                inner = value.get(one.name) if isinstance(value, Mapping) else None
                walk(hints[one.name], inner, f"{path}.{one.name}".lstrip("."))
        if isinstance(value, (list, tuple)):
            item = next((argument for member in _members(kind) for argument in get_args(member)), Any)
            for number, inner in enumerate(value):
                walk(item, inner, f"{path}.{number}")

    walk(PretrainConfig, settings, "")
    return found


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _first_cause(error: BaseException, path: str = "") -> str:
    """The innermost of cattrs' nested errors as one line with the path to it."""
    for inner in getattr(error, "exceptions", ()):
        step = path
        for note in getattr(inner, "__notes__", ()):
            name = getattr(note, "name", None)
            index = getattr(note, "index", None)
            if name is not None or index is not None:
                step = f"{path}.{index if name is None else name}".lstrip(".")
        return _first_cause(inner, step)
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        extra = sorted(error.extra_fields)[0]
        allowed = [each.name for each in fields(error.cl)] if is_dataclass(error.cl) else []
        near = difflib.get_close_matches(extra, allowed, n=1, cutoff=0.5)
        where = f"{path}.{extra}".lstrip(".")
        return f"{where}: there is no such setting" + (f"; did you mean {near[0]}?" if near else "")
    if isinstance(error, KeyError) and path:
        return f"{path}: it is missing"
    if isinstance(error, BadConfig):
        return str(error)
    return f"{path}: {error}"
