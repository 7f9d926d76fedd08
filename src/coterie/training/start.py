"""What a new run takes over from the MODEL that it starts from: the backbone, and heads, groups and teacher where they fit."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coterie.config.schema import PretrainConfig
from coterie.errors import BadRun
from coterie.formatting import first_few
from coterie.grouping.groups import LearnedGroups
from coterie.grouping.teacher import MomentumTeacher
from coterie.models.pretrained import read_parts
from coterie.models.timm_weights import TIMM
from coterie.models.weights_file import split_branch
from coterie.training import checkpoint_io
from coterie.training.student import Student

_PREDICTOR = "predict"
"""Only a head with this in its name becomes a predictor, and only others a projector."""
_PROTOTYPES = "prototypes"
_COUNTER = "num_batches_tracked"


@dataclass
class Start:
    """What was taken over.

    Attributes:
        backbone: one line: what of the file the backbone took.
        heads: tensors beside the backbone by the name of their part: ``projector``, ``teacher``, or those of another project.
        taken: the parts that were taken, in words.
        left: those that do not fit, or have no place.
    """

    backbone: str
    heads: dict[str, dict[str, Tensor]]
    taken: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        """What was taken over and what was left, in one line."""
        parts = [self.backbone]
        parts += [f"also took {first_few(self.taken, ', ')}"] * bool(self.taken)
        parts += [f"left {first_few(self.left, ', ')}, which does not fit here"] * bool(self.left)
        return "; ".join(parts)


def start_student(config: PretrainConfig, student: Student) -> Start:
    """Load backbone, projector, predictor and learned groups of a MODEL into a new student, as far as they fit.

    The backbone must fit. A head is taken if its layers have the names and shapes of the file's (a run's checkpoint, SwAV's
    ``projection_head``, ``prototypes``); learned groups if all heads have the same shape. Groups that a refresh computes are
    computed from the images.

    Args:
        config: settings of the run, with ``backbone.weights``.
        student: the new student, changed in place.

    Raises:
        UserError: there is no such MODEL, or it is of another network.
    """
    model, backbone = str(config.backbone.weights), student.encoder.backbone
    parts = read_parts(backbone, model, config.backbone.channels)
    backbone.load_state_dict(parts.backbone, strict=False)
    start = Start(parts.line, _parts_of_run(model) or _by_first_word(parts.beside))
    for name in ("projector", "predictor"):
        head = getattr(student.encoder, name)
        if head is not None:
            _take_head(start, name, head)
    if isinstance(student.groups, LearnedGroups):
        _take_groups(start, student.groups.heads)
    start.left = [name for name in start.heads if name != "teacher"]
    return start


def start_teacher(config: PretrainConfig, target: object, start: Start) -> None:
    """Load the teacher of a run into a new one, if all of it fits and no layer is frozen; else it is a copy of the student.

    Args:
        config: settings of the run.
        target: the target network, changed in place if it is a teacher.
        start: what the student took over; the teacher is added to it.
    """
    found = start.heads.pop("teacher", None)
    if found is None:
        return
    if isinstance(target, MomentumTeacher) and config.backbone.trainable == "all" and _fits(found, target.state_dict()):
        target.load_state_dict(found, strict=False)
        start.taken.append("the teacher")
    else:
        start.left.append("teacher")


def _parts_of_run(model: str) -> dict[str, dict[str, Tensor]]:
    """The parts beside the backbone in a run's newest checkpoint; none if it is no run's folder, or damaged."""
    folder, branch = (None, None) if model.startswith(TIMM) else split_branch(model)
    if folder is None or branch is not None or not (folder / "checkpoint").is_dir():
        return {}
    try:
        _, state, _ = checkpoint_io.load(folder / "checkpoint")
    except BadRun:
        return {}
    student, objective = ({} if state is None else state.get(each, {}) for each in ("student", "objective"))
    places: dict[str, tuple[Mapping[str, Any], str]] = {
        "projector": (student, "encoder.projector."),
        "predictor": (student, "encoder.predictor."),
        _PROTOTYPES: (student, "groups."),
        "teacher": (objective, "target."),
    }
    found = {name: _below(values, prefix) for name, (values, prefix) in places.items()}
    return {name: values for name, values in found.items() if values}


def _below(values: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): each
        for name, each in values.items()
        if name.startswith(prefix) and isinstance(each, Tensor)
    }


def _by_first_word(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Tensors by the first word of their names: ``projection_head``, ``prototypes``, ``fc``."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, each in tensors.items():
        word, _, rest = name.partition(".")
        found.setdefault(word, {})[rest] = each
    return found


def _take_head(start: Start, name: str, head: nn.Module) -> None:
    """Load the first head of the file that is built alike; it is then no longer among those to be taken."""
    for word, tensors in start.heads.items():
        plain = {f"layers.{each.removeprefix('layers.')}": value for each, value in tensors.items()}
        if (_PREDICTOR in word) == (name == "predictor") and _fits(plain, head.state_dict()):
            head.load_state_dict(plain, strict=False)
            del start.heads[word]
            start.taken.append(f"the {name}" if word == name else f"{word} as the {name}")
            return


@torch.no_grad()
def _take_groups(start: Start, heads: nn.ParameterList) -> None:
    """Load prototypes, in the order of their names; each row gets unit length, as the released code gives it."""
    for word, tensors in start.heads.items():
        found = [tensors[name] for name in sorted(tensors, key=lambda name: (len(name), name))]
        if word.startswith(_PROTOTYPES) and [each.shape for each in found] == [each.shape for each in heads]:
            for head, centers in zip(heads, found, strict=True):
                head.copy_(F.normalize(centers.to(head), dim=1))
            del start.heads[word]
            count = "+".join(str(len(each)) for each in heads)
            start.taken.append(f"the {count} groups")
            return


def _fits(found: Mapping[str, Tensor], expected: Mapping[str, Any]) -> bool:
    """Whether two states have the same names and shapes, but for counters of batches."""
    ours, theirs = (
        {name: each.shape for name, each in state.items() if not name.endswith(_COUNTER)} for state in (expected, found)
    )
    return bool(ours) and ours == theirs
