"""Options that several commands share, in Python and on the command line, each with its help text."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from cyclopts import Parameter

from coterie.errors import did_you_mean

if TYPE_CHECKING:  # in Python also a dictionary of values by path, such as {"groups.counts": 300}
    Settings = Sequence[str] | Mapping[str, Any]
else:  # the command line reads this one
    Settings = Sequence[str]


class RunOptions(TypedDict, total=False):
    """Options of ``plan``, ``profile`` and ``pretrain``.

    Attributes:
        backbone: Any network of timm, such as vit_small_patch16_224. [default: chosen from the images]
        epochs: Passes over the images. [default: chosen from their number]
        images: Stop after this many images, even within an epoch. [default: none, all epochs]
        batch_size: Images per step, over all processes. [default: chosen from the number of images]
        seed: Seed for weights, data order and augmentation. [default: 0]
        config: A config.toml, from a run or of your own, in place of the preset. [default: none]
        settings: Override a setting, as in --set groups.counts=300. May be given several times. [default: none]
    """

    backbone: str | None
    epochs: int | None
    images: int | None
    batch_size: int | None
    seed: int | None
    config: str | Path | None
    settings: Annotated[Settings, Parameter(name="--set", negative=())]


class MachineOptions(TypedDict, total=False):
    """Options of every command that uses a trained network.

    Attributes:
        device: One of auto (CUDA if there is a usable GPU), cpu, cuda, cuda:N. [default: auto]
        workers: Processes that load images; -1: as many as there are cores to spare. [default: -1]
    """

    device: str
    workers: int


class EvaluationOptions(MachineOptions, total=False):
    """Options of ``evaluate`` and ``transfer``.

    Attributes:
        labels: For finetune: a share of the training labels, such as 1%, or a number per class, such as 5. [default: 10%]
        seed: Seed for what a probe draws. [default: 0]
        device: One of auto (CUDA if there is a usable GPU), cpu, cuda, cuda:N. [default: auto]
        workers: Processes that load images; -1: as many as there are cores to spare. [default: -1]
    """

    labels: str
    seed: int


def check_options(options: Mapping[str, Any], kind: type) -> None:
    """Check keyword arguments against a ``TypedDict``, as Python checks those that a function spells out.

    Raises:
        TypeError: an unknown keyword; the message suggests the one that was probably meant.
    """
    known = kind.__annotations__.keys() | {
        name for base in kind.__mro__ for name in getattr(base, "__annotations__", ())
    }
    for name in options:
        if name not in known:
            raise TypeError(f"unexpected keyword argument {name!r}{did_you_mean(name, known)}")
