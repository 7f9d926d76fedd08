"""Choices that depend on the machine: device, precision, augmentation engine, loader workers, compiler."""

import os
import warnings
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch

from coterie.config.options import Precision
from coterie.config.schema import RunConfig
from coterie.data.augmentation.view_plan import Engine
from coterie.distributed.processes import local_device
from coterie.errors import BadConfig, UserError, did_you_mean
from coterie.logger import Logger, NullLogger
from coterie.usable_cores import usable_cores

DEVICES = ("auto", "cpu", "cuda", "cuda:0")
STEPS_WORTH_COMPILING = 3000
"""Fewest steps worth compiling on a GPU: in a shorter run the compiler, a minute or more, takes about what it saves."""


@dataclass(frozen=True)
class Runtime:
    """Where and how work is computed, and who receives its messages.

    Attributes:
        device: the device of this process.
        autocast: precision of forward passes under autocast, bfloat16; None: float32.
        workers: processes that load images.
        logger: receives messages and progress.
        automatic: whether the precision is that of the hardware, and not of the caller's choice.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    autocast: torch.dtype | None = None
    workers: int = 0
    logger: Logger = field(default_factory=NullLogger)
    automatic: bool = False

    @classmethod
    def choose(
        cls, device: str = "auto", precision: str = "auto", workers: int = -1, logger: Logger | None = None
    ) -> "Runtime":
        """Resolve options for this process on this machine.

        Args:
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
            precision: ``auto``, ``float32`` or ``bfloat16``.
            workers: processes that load images; -1: as many as there are cores to spare.
            logger: receives messages and progress; None: they are discarded.

        Raises:
            UserError: the device does not exist, or torch cannot use it.
        """
        chosen = local_device(choose_device(device))
        autocast, automatic = choose_autocast(precision, chosen), precision == "auto"
        return cls(chosen, autocast, choose_workers(workers), logger or NullLogger(), automatic)

    @classmethod
    def of_run(cls, run: RunConfig, logger: Logger | None = None) -> "Runtime":
        """Where and how a run computes: :meth:`choose` with its settings.

        Args:
            run: its settings.
            logger: receives messages and progress; None: they are discarded.

        Raises:
            UserError: the device does not exist, or torch cannot use it.
        """
        return cls.choose(run.device, run.precision, run.workers, logger)

    @property
    def precision(self) -> Literal["float32", "bfloat16"]:
        """The name of the precision of forward passes."""
        return "float32" if self.autocast is None else "bfloat16"


ON_CPU = Runtime()
"""The CPU, float32, no loader workers, no messages: the default of functions that take a runtime."""


def choose_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is CUDA where a GPU is usable, else the CPU.

    Raises:
        UserError: the device does not exist, or torch cannot use it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"  # torch prints why a GPU is not used
    kind, colon, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (colon and not (kind == "cuda" and number.isdecimal())):
        near = "; did you mean cuda?" if kind == "gpu" else did_you_mean(name, DEVICES) if name[:1] in "ac" else ""
        raise BadConfig(f"run.device is {name!r}: use auto, cpu, cuda or cuda:0{near}")
    device = torch.device(name)
    if kind == "cuda" and (refusal := _refusal(local_device(device))):
        raise UserError(f"the device is {name}, but torch says: {refusal}; choose cpu, or auto")
    return device


def _refusal(device: torch.device) -> str | None:
    """Torch's reason for not being able to use a GPU (none there, an old driver, too old for torch); None if it can."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it repeats the error in more lines
        try:
            torch.ones((), device=device).add_(1).item()
        except (RuntimeError, AssertionError) as error:
            return str(error).partition("\n")[0].partition(". ")[0].rstrip(".;: ")
    return None


def choose_engine(engine: Engine, device: torch.device) -> tuple[Literal["cpu", "gpu"], str]:
    """The engine that augments the views, and the reason for it."""
    if engine != "auto":
        return engine, "set by you"
    if device.type == "cuda":
        return "gpu", "a GPU augments a whole batch at once, and leaves the workers to decode and crop"
    return "cpu", "a CPU augments view by view, and applies only the operations that were drawn"


def choose_workers(number: int) -> int:
    """The number of processes that load images; -1: as many as this process has cores to spare, from 1 to 16."""
    if number < -1:
        raise BadConfig(f"workers is {number}: give 0 (none), more, or -1 (as many as there are cores to spare)")
    if number >= 0:
        return number
    share = len(usable_cores()) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun's, of this machine
    return max(1, min(16, share - 1))


def choose_autocast(precision: str, device: torch.device) -> torch.dtype | None:
    """The autocast type: bfloat16 if requested, or if ``auto`` and the device has it in hardware; None: float32.

    Raises:
        BadConfig: the name is unknown.
    """
    if precision not in get_args(Precision):
        near = did_you_mean(precision, get_args(Precision))
        raise BadConfig(f"precision is {precision!r}: use auto, float32 or bfloat16{near}")
    return torch.bfloat16 if precision == "bfloat16" or (precision == "auto" and has_bfloat16(device)) else None


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes with bfloat16 in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    features: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # missing in older versions of torch
    return features.get("avx512_bf16", False) or features.get("amx_bf16", False)


def choose_compile(
    mode: Literal["auto", "never", "always"], device: torch.device, steps: int, recomputed: bool = False
) -> bool:
    """Whether to compile the training passes.

    ``auto`` compiles only on CUDA, in runs that are long enough to pay for it: on a CPU it gained nothing, and a resumed run
    would not equal an uninterrupted one bit for bit.

    Args:
        mode: ``run.compile``.
        device: the device that trains.
        steps: steps still to train.
        recomputed: whether the backward pass recomputes activations; ``auto`` then runs eagerly.
    """
    if mode != "auto":
        return mode == "always"
    return device.type == "cuda" and not recomputed and steps >= STEPS_WORTH_COMPILING
