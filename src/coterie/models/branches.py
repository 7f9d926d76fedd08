"""Find a network among the tensors of a file: under which prefix, and which one of several (student, teacher ...)."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from coterie.errors import UserError
from coterie.formatting import first_few
from coterie.models.other_names import Converted, as_timm_names_it
from coterie.models.weights_file import WeightsFile

_PREFERRED = re.compile(r"(teacher|target_encoder)(_|$)|(^|_)ema$")  # DINO, DINOv2, iBOT; MSN, I-JEPA; timm
_AVOIDED = re.compile(r"momentum|encoder_k$|^key_|_key$|^target_(network|backbone|model)$")  # MoCo, solo-learn; BYOL
_COUNTER = "num_batches_tracked"  # files from before torch 0.4.1 have none; nothing reads them
_HARMLESS = re.compile(r"mask_token|queue|pos_embed_|center$|pred")  # used by the pretext task only


@dataclass(frozen=True, eq=False)
class Branch:
    """The tensors under one prefix, compared with a network.

    Attributes:
        prefix: the prefix with its last dot, or "".
        state: what the network takes, under timm's names, in shapes that may still differ from the network's.
        renamed: in a few words, what was renamed or converted.
        missing: names that the network needs and the file lacks.
        foreign: names in the file that belong to a similar, larger network.
        shapes: names whose shapes differ.
        left: tensors under the prefix that the network does not need, such as heads.
    """

    prefix: str
    state: Mapping[str, Tensor]
    renamed: tuple[str, ...]
    missing: tuple[str, ...]
    foreign: tuple[str, ...]
    shapes: tuple[str, ...]
    left: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def names_fit(self) -> bool:
        """Whether it is this kind of network, perhaps in another width, stem or size."""
        return not self.missing and not self.foreign

    @property
    def fits(self) -> bool:
        """Whether it is this network."""
        return self.names_fit and not self.shapes


def compare(prefix: str, tensors: Mapping[str, Tensor], network: nn.Module, channels: int) -> Branch:
    """Compare the tensors under a prefix with a network.

    Args:
        prefix: the prefix with its last dot, or "".
        tensors: these tensors, without the prefix.
        network: a network of timm.
        channels: number of channels of its images.
    """
    expected = network.state_dict()
    converted: Converted = as_timm_names_it(tensors, network, channels)
    state = {name: each for name, each in converted.state.items() if name in expected}
    others = {name: each for name, each in converted.state.items() if name not in expected}
    foreign = [name for name in others if _belongs(name, expected, converted.heads)]
    left = {name: each for name, each in others.items() if name not in foreign}
    missing = [name for name in expected if name not in state and not name.endswith(_COUNTER)]
    shapes = [name for name, each in state.items() if each.shape != expected[name].shape]
    return Branch(prefix, state, converted.what, tuple(missing), tuple(foreign), tuple(shapes), left)


def choose_branch(
    file: WeightsFile, network: nn.Module, channels: int, good: Callable[[Branch], bool]
) -> tuple[Branch, list[Branch]]:
    """Find the network in a file: the branch that was asked for, or the one that its authors evaluate.

    Args:
        file: the file.
        network: a network of timm.
        channels: number of channels of its images.
        good: what a branch must be, such as ``fits``.

    Returns:
        The branch, which is the closest one if none is good, and the others that are good.

    Raises:
        UserError: no branch has the name that was asked for.
    """
    under = _prefixes(file.tensors)
    enough = sum(not name.endswith(_COUNTER) for name in network.state_dict()) / 4
    most = sorted(under, key=lambda prefix: -len(under[prefix]))
    large = [prefix for prefix in most if len(under[prefix]) >= enough] or most[:8]
    branches = [compare(prefix, under[prefix], network, channels) for prefix in large]
    fitting = sorted(filter(good, branches), key=lambda branch: (_rank(branch.prefix), -len(branch.state)))
    if file.branch is not None:
        branches = [each for each in branches if is_named(each.prefix, file.branch)]
        if not branches:
            names = list(dict.fromkeys(prefix.rstrip(".").rpartition(".")[2] for prefix in large if prefix))
            has = f"it has {first_few(names, ', ')}" if names else "it has no branches"
            raise UserError(f"{file.name} has no branch {file.branch}: {has}")
    chosen = next((each for each in fitting if each in branches), None)
    if chosen is None:
        return max(branches, key=lambda branch: len(branch.state) - len(branch.shapes) / 2), []
    return chosen, [each for each in fitting if each is not chosen]


def is_named(prefix: str, name: str) -> bool:
    """Whether a prefix is, or has, the branch that someone named.

    Args:
        prefix: the prefix with its last dot.
        name: what stands behind ``#``: one or several of its words.
    """
    return f".{name.strip('.')}." in f".{prefix}"


def name_of(branch: Branch, chosen: Branch) -> str:
    """The shortest name that chooses a branch rather than the chosen one.

    Args:
        branch: one of the others that fit.
        chosen: the one that was taken.
    """
    words = branch.prefix.rstrip(".").split(".")
    return next((word for word in words if not is_named(chosen.prefix, word)), branch.prefix.rstrip("."))


def _prefixes(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors under every prefix where names part, without the prefix."""
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


def _belongs(name: str, expected: Iterable[str], heads: tuple[str, ...]) -> bool:
    """Whether a name that the network lacks is part of a larger one, rather than a head beside it."""
    first, _, rest = name.partition(".")
    if name.startswith(heads) or name.endswith(_COUNTER) or _HARMLESS.search(name):
        return False
    if not rest:
        return first.endswith(("_token", "_tokens", "pos_embed"))  # it changes the features, wherever it comes from
    return any(each.startswith(f"{first}.") for each in expected)
