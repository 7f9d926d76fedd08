"""Load pretrained weights into a backbone: public files of any project, timm's, or those of a Coterie run."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from coterie.errors import UserError
from coterie.formatting import first_few
from coterie.models.branches import Branch, Choice, choose_branch
from coterie.models.weights_file import WeightsFile, read_weights

_OPTIMIZER = re.compile(r"(^|_)opt")  # opt, optimizer, optimizer_states, model_optim


@dataclass(frozen=True)
class Parts:
    """A file's tensors, taken apart.

    Attributes:
        backbone: the network's, under timm's names.
        beside: the others that belong to the same branch (projection head, prototypes, predictor), under their own names
            without the prefix; nothing of other branches and of the optimizer.
        took: what was taken, and what was renamed or converted.
        others: how to choose another network of the file; "" if there is none.
    """

    backbone: dict[str, Tensor]
    beside: dict[str, Tensor]
    took: str
    others: str

    @property
    def line(self) -> str:
        """One line: what was taken, left and renamed."""
        return self.line_without(())

    def line_without(self, taken: Collection[str]) -> str:
        """The same line, where some of what is beside the network was taken as well.

        Args:
            taken: first words of the names of such tensors, which are not left.
        """
        left = [word for word in dict.fromkeys(name.partition(".")[0] for name in self.beside) if word not in taken]
        said = [self.took, f"left {first_few(left, ', ')}" if left else "", self.others]
        return "; ".join(filter(None, said))


def load_weights(network: nn.Module, spec: str | Path | WeightsFile, channels: int) -> str:
    """Load the weights of a MODEL into a timm network.

    The network is found by its names and shapes, at any depth and under any prefix. Other projects' names are converted, and so
    are positions for another image size (as timm does) and a first convolution for RGB (summed for one channel, repeated and
    rescaled for several). Heads and classifiers are left. If several networks fit, the one that the authors of such files
    evaluate is taken (a teacher rather than its student); ``FILE#BRANCH`` chooses another.

    Args:
        network: a network of timm, changed in place.
        spec: a run's folder, a file of weights, a folder of Hugging Face, or ``timm:NAME``; or a file that has been read.
        channels: number of channels of the network's images.

    Returns:
        One line: what was taken, what was left, what was renamed.

    Raises:
        UserError: there is no such file, it has no weights, or they belong to another network; the line names the keys that
            differ.
    """
    parts = read_parts(network, spec, channels)
    network.load_state_dict(parts.backbone, strict=False)
    return parts.line


def read_parts(network: nn.Module, spec: str | Path | WeightsFile, channels: int) -> Parts:
    """Take the tensors of a MODEL apart: those of a network, and the heads beside it.

    Args:
        network: the network of timm to look for, on any device; it is not changed.
        spec: as for :func:`load_weights`.
        channels: number of channels of the network's images.

    Raises:
        UserError: as for :func:`load_weights`.
    """
    file = spec if isinstance(spec, WeightsFile) else read_weights(spec)
    choice = choose_branch(file, network, channels, lambda each: each.fits)
    if not choice.branch.fits:
        name = getattr(network, "pretrained_cfg", {}).get("architecture", type(network).__name__)
        raise UserError(
            f"{file.name} does not fit {name}: {differences(network, choice.branch)}; check backbone.name, .width, .stem "
            "and .mlp_norm"
        )
    return Parts(dict(choice.branch.state), _beside(file.tensors, choice), *_line(file, choice))


def _beside(tensors: Mapping[str, Tensor], choice: Choice) -> dict[str, Tensor]:
    """What the branch itself leaves, then what stands beside it at each level above, except other networks."""
    beside, level = dict(choice.branch.left), choice.branch.prefix
    while level:
        below, level = level, re.sub(r"[^.]*\.$", "", level)
        for name, tensor in tensors.items():
            inside = name[len(level) :]
            first = f"{inside.partition('.')[0]}."
            apart = any(f".{other}." in f".{level}{first}" for other in choice.others) or _OPTIMIZER.search(first)
            if name.startswith(level) and not name.startswith(below) and not apart:
                beside.setdefault(inside, tensor)
    return beside


def _line(file: WeightsFile, choice: Choice) -> tuple[str, str]:
    """Say what was taken and converted, and how to choose another branch."""
    branch, others = choice.branch, ""
    where = f" under {branch.prefix.rstrip('.')}" if branch.prefix else ""
    took = f"took {len(branch.state)} tensors{where}"
    if choice.others and file.branch is None:
        took += f", {'which the authors of such files evaluate' if choice.known else 'the first that fits'}"
        others = f"{first_few(choice.others, ', ')} would fit too: choose with {file.name}#{choice.others[0]}"
    return f"{file.name}: {'; '.join([took, *branch.converted])}", others


def differences(network: nn.Module, branch: Branch) -> str:
    """Describe in words how a branch differs from a network; batch counters may be missing.

    Args:
        network: the network.
        branch: the closest branch of a file.
    """
    expected = network.state_dict()
    shapes = [
        f"{name} is {_shape(branch.state[name])} in the file and {_shape(expected[name])} in the network"
        for name in branch.shapes
    ]
    parts = [f"missing {_few(branch.missing)}"] * bool(branch.missing)
    parts += [f"not in the network {_few(branch.foreign)}"] * bool(branch.foreign)
    parts += [_few(shapes)] * bool(shapes)
    return "; ".join(parts)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _few(words: Iterable[str]) -> str:
    return first_few(list(words), ", ")
