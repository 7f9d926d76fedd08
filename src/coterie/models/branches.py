"""Find a network among the tensors of a file: under which prefix, and which one of several (student, teacher ...)."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from coterie.errors import UserError
from coterie.formatting import first_few
from coterie.models.timm_names import as_timm_names_it
from coterie.models.weights_file import WeightsFile

_PREFERRED = re.compile(r"(^|_)(teacher|target_encoder|ema)(_|$)")  # DINO, DINOv2, iBOT; MSN, I-JEPA; timm
_AVOIDED = re.compile(r"momentum|(^|_)(k|key)(_|$)|^target_(network|backbone|model)$")  # MoCo, solo-learn; BYOL
_COUNTER = "num_batches_tracked"  # files from before torch 0.4.1 have none; nothing reads them
_TOKENS = ("cls_token", "dist_token", "reg_token", "register_tokens", "storage_tokens", "pos_embed")


@dataclass(frozen=True, eq=False)
class Branch:
    """The tensors under one prefix, compared with a network.

    Attributes:
        prefix: the prefix with its last dot, or "".
        state: what the network takes, under timm's names, in shapes that may still differ from the network's.
        converted: in a few words each, what was renamed or converted.
        missing: names that the network needs and the branch lacks.
        foreign: names in the branch that belong to a similar, larger network.
        shapes: names whose shapes differ.
        left: tensors of the branch that the network does not need, such as heads, under the file's names.
    """

    prefix: str
    state: Mapping[str, Tensor]
    converted: tuple[str, ...]
    missing: tuple[str, ...]
    foreign: tuple[str, ...]
    shapes: tuple[str, ...]
    left: Mapping[str, Tensor]

    @property
    def names_fit(self) -> bool:
        """Whether it is this kind of network, perhaps in another width, stem or size."""
        return not self.missing and not self.foreign

    @property
    def fits(self) -> bool:
        """Whether it is this network."""
        return self.names_fit and not self.shapes


@dataclass(frozen=True)
class Choice:
    """The branch that is taken.

    Attributes:
        branch: the branch; the closest one if none fits.
        others: names of the others that fit, which choose them behind ``#``.
        known: whether the name of one of them says which one its authors evaluate.
    """

    branch: Branch
    others: tuple[str, ...] = ()
    known: bool = False


def choose_branch(file: WeightsFile, network: nn.Module, channels: int, good: Callable[[Branch], bool]) -> Choice:
    """Find the network in a file: the branch that was asked for, or the one that its authors evaluate.

    Args:
        file: the file.
        network: a network of timm.
        channels: number of channels of its images.
        good: what a branch must be: ``fits`` or ``names_fit``.

    Raises:
        UserError: no branch has the name that was asked for.
    """
    under = _prefixes(file.tensors)
    enough = sum(not name.endswith(_COUNTER) for name in network.state_dict()) / 4
    most = sorted(under, key=lambda prefix: -len(under[prefix]))
    large = [prefix for prefix in most if len(under[prefix]) >= enough] or most[:8]
    branches = [_compared(prefix, under[prefix], network, channels) for prefix in large]
    fitting = sorted(filter(good, branches), key=lambda branch: (_rank(branch.prefix), -len(branch.state)))
    if file.branch is not None:
        branches = [each for each in branches if _is_named(each.prefix, file.branch)]
    if not branches:
        has = _names([each.prefix for each in fitting]) or _names([prefix for prefix in large if prefix])
        raise UserError(f"{file.name} has no branch {file.branch}: it has {first_few(has, ', ') or 'none with a name'}")
    chosen = next((each for each in fitting if each in branches), None)
    if chosen is None:
        return Choice(max(branches, key=lambda branch: len(branch.state) - len(branch.shapes) / 2))
    names = dict(zip(fitting, _names([each.prefix for each in fitting]), strict=True))
    others = tuple(name for branch, name in names.items() if branch is not chosen)
    return Choice(chosen, others, known=len({_rank(each.prefix) for each in fitting}) > 1)


def _compared(prefix: str, tensors: Mapping[str, Tensor], network: nn.Module, channels: int) -> Branch:
    expected = network.state_dict()
    converted = as_timm_names_it(tensors, network, channels)
    state: dict[str, Tensor] = {}
    others: dict[str, Tensor] = {}
    for name, tensor in converted.state.items():
        fits = name in expected and tensor.is_floating_point() == expected[name].is_floating_point()
        (state if fits else others)[name] = tensor
    foreign = tuple(name for name in others if _belongs(name, expected, converted.heads))
    return Branch(
        prefix=prefix,
        state=state,
        converted=converted.what,
        missing=tuple(name for name in expected if name not in state and not name.endswith(_COUNTER)),
        foreign=foreign,
        shapes=tuple(name for name, tensor in state.items() if tensor.shape != expected[name].shape),
        left={name: tensor for name, tensor in others.items() if name not in foreign},
    )


def _belongs(name: str, expected: Iterable[str], heads: tuple[str, ...]) -> bool:
    """Whether a name that the network lacks is part of a similar, larger one, rather than of a head beside it."""
    first, _, rest = name.partition(".")
    if name.startswith(heads) or name.endswith(_COUNTER):
        return False
    if not rest:
        return name in _TOKENS  # they change the features
    return any(each.startswith(f"{first}.") for each in expected)


def _prefixes(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors under every prefix after which names part, without the prefix."""
    under: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        position = 0
        while True:
            under.setdefault(name[:position], {})[name[position:]] = tensor
            position = name.find(".", position) + 1
            if not position:
                break
    return {prefix: each for prefix, each in under.items() if len({name.partition(".")[0] for name in each}) > 1}


def _rank(prefix: str) -> int:
    words = prefix.rstrip(".").split(".")
    if any(_AVOIDED.search(word) for word in words):
        return 1
    return -1 if any(_PREFERRED.search(word) for word in words) else 0


def _is_named(prefix: str, name: str) -> bool:
    """Whether a prefix has the name: one or several of its words."""
    return f".{name.strip('.')}." in f".{prefix}"


def _names(prefixes: Sequence[str]) -> list[str]:
    """The shortest name of each prefix: a word of it that none of the others has, or all of it."""
    names = []
    for prefix in prefixes:
        others = [each for each in prefixes if each != prefix]
        words = prefix.rstrip(".").split(".")
        own = (word for word in words if word and not any(_is_named(each, word) for each in others))
        names.append(next(own, prefix.rstrip(".")))
    return names
