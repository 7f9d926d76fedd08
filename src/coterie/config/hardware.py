"""What this machine offers a run: device, precision, loader workers, compiler."""

import os
import warnings
from dataclasses import dataclass, field
from typing import Literal

import torch

from coterie.data.augmentation.view_plan import Engine
from coterie.distributed.processes import local_device
from coterie.errors import BadConfig, UserError
from coterie.logger import Logger, NullLogger

STEPS_WORTH_COMPILING = 3000
"""In a shorter run on a GPU the compiler, which takes a minute or more, would take about as long as it saves."""


@dataclass(frozen=True)
class Runtime:
    """Where and how work is computed, and who receives its messages; none of it changes what is computed.

    Attributes:
        device: of this process.
        autocast: the precision of forward passes that may be low, bfloat16; None: float32.
        workers: processes that load images.
        logger: receives messages and progress.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    autocast: torch.dtype | None = None
    workers: int = 0
    logger: Logger = field(default_factory=NullLogger)

    @classmethod
    def choose(
        cls, device: str = "auto", precision: str = "auto", workers: int = -1, logger: Logger | None = None
    ) -> "Runtime":
        """What is meant on this machine, for this process.

        Args:
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
            precision: ``auto``, ``float32`` or ``bfloat16``.
            workers: processes that load images; -1: as many as there are cores to spare.
            logger: receives messages and progress; None: nobody does.

        Raises:
            UserError: there is no such device, or torch cannot use it.
        """
        chosen = local_device(choose_device(device))
        return cls(chosen, choose_autocast(precision, chosen), choose_workers(workers), logger or NullLogger())


def choose_device(name: str) -> torch.device:
    """The device that is meant; ``auto`` is CUDA where there is a usable one, else the CPU.

    Raises:
        UserError: no such device, or torch cannot use it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"  # says on standard error why a GPU is not used
    kind, colon, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (colon and not (kind == "cuda" and number.isdecimal())):
        raise BadConfig(f"run.device is {name!r}: use auto, cpu, cuda or cuda:0")
    device = torch.device(name)
    if kind == "cuda" and (refusal := _refusal(local_device(device))):
        raise UserError(f"run.device is {name}, but torch says: {refusal}; use --set run.device=cpu")
    return device


def _refusal(device: torch.device) -> str | None:
    """What torch says when it cannot use a GPU: there is none, its driver does not fit, it is too old for torch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the same again, in more lines
        try:
            torch.ones((), device=device).add_(1).item()
        except (RuntimeError, AssertionError) as error:
            return str(error).partition("\n")[0].partition(". ")[0].rstrip(".;: ")
    return None


def choose_engine(engine: Engine, device: torch.device) -> tuple[Literal["cpu", "gpu"], str]:
    """Which engine augments the views, and why."""
    if engine != "auto":
        return engine, "set by you"
    if device.type == "cuda":
        return "gpu", "a GPU augments a whole batch at once, and leaves the workers to decode and crop"
    return "cpu", "a CPU augments view by view, and applies only the operations that were drawn"


def choose_workers(number: int) -> int:
    """How many processes load images; -1: as many as there are cores to spare for this process, from 1 to 16."""
    if number < -1:
        raise BadConfig(f"workers is {number}: give 0 (none), more, or -1 (as many as there are cores to spare)")
    if number >= 0:
        return number
    share = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun's, of this machine
    return max(1, min(16, share - 1))


def choose_autocast(precision: str, device: torch.device) -> torch.dtype | None:
    """bfloat16 where it is asked for, or where it is automatic and the device has it in hardware; None: float32."""
    return torch.bfloat16 if precision == "bfloat16" or (precision == "auto" and has_bfloat16(device)) else None


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes with bfloat16 in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    can: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch do not say
    return can.get("avx512_bf16", False) or can.get("amx_bf16", False)


def choose_compile(
    wish: Literal["auto", "never", "always"], device: torch.device, steps: int, recomputed: bool = False
) -> bool:
    """Whether the training passes are compiled in a run of ``steps`` steps.

    Automatically only on CUDA, in runs that are long enough to pay for it: on a CPU it gained nothing, and a resumed run
    would not be bitwise the whole one. What is ``recomputed`` in the backward pass is run as it is written.
    """
    if wish != "auto":
        return wish == "always"
    return device.type == "cuda" and not recomputed and steps >= STEPS_WORTH_COMPILING
