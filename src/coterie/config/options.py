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
    """Options of ``plan``, ``profile`` and ``pretrain``. Those left out are chosen from the preset and the images.

    Attributes:
        backbone: Any network of timm, such as resnet50, vit_small_patch16_224, convnext_tiny.
        epochs: Passes over the images.
        images: Stop after this many images, even within an epoch.
        batch_size: Images per step, over all processes.
        seed: Seed for weights, data order and augmentation.
        config: A config.toml, from a run or of your own, in place of the preset.
        settings: Override a setting, as in --set groups.counts=300. May be given several times.
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
        device: auto (CUDA if there is a usable GPU; the default), cpu, cuda or cuda:N.
        workers: Processes that load images; -1 (the default): as many as there are cores to spare.
    """

    device: str
    workers: int


class EvaluationOptions(MachineOptions, total=False):
    """Options of ``evaluate`` and ``transfer``.

    Attributes:
        labels: For finetune: a share of the training labels, such as 1%, or a number per class, such as 5. Default: 10%.
        seed: Seed for what a probe draws. Default: 0.
        device: auto (CUDA if there is a usable GPU; the default), cpu, cuda or cuda:N.
        workers: Processes that load images; -1 (the default): as many as there are cores to spare.
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
