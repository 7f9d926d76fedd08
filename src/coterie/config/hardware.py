"""What this machine offers: device, precision, loader workers, compiler, each with the reason for the choice."""

import os
import warnings
from typing import Literal

import torch

from coterie.data.augmentation.view_plan import Engine
from coterie.distributed.processes import local_device
from coterie.errors import BadConfig, UserError

STEPS_WORTH_COMPILING = 3000
"""In a shorter run on a GPU the compiler is not asked: it would take about as long as it saves."""


def choose_device(name: str) -> torch.device:
    """The device that is meant; ``auto`` is CUDA where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"  # says on standard error why a GPU is left alone
    kind, colon, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (colon and not (kind == "cuda" and number.isdecimal())):
        raise BadConfig(f"run.device is {name!r}: write auto, cpu, cuda or cuda:0")
    device = torch.device(name)
    if kind == "cuda" and (refusal := _refusal(local_device(device))):
        raise UserError(f"run.device is {name}, but torch says: {refusal}; use --set run.device=cpu")
    return device


def _refusal(device: torch.device) -> str | None:
    """What torch says when it cannot work on a GPU: there is none, its driver does not fit, it is older than torch knows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the same again, in more lines
        try:
            torch.ones((), device=device).add_(1).item()
        except (RuntimeError, AssertionError) as error:
            return str(error).partition("\n")[0].partition(". ")[0].rstrip(".;: ")
    return None


def choose_engine(engine: Engine, device: torch.device) -> tuple[Literal["cpu", "gpu"], str]:
    """Who does the colors of the views, and why."""
    if engine != "auto":
        return engine, "set by you"
    if device.type == "cuda":
        return "gpu", "a GPU does the colors of a whole batch at once, and leaves the workers to decode and crop"
    return "cpu", "a processor does the colors view by view, and only those that were drawn"


def choose_workers(number: int) -> int:
    """How many processes load images; -1: as many as there are cores to spare for this one, from 1 to 16."""
    if number < -1:
        raise BadConfig(f"workers is {number}: give 0 (none), more, or -1 (as many as there are cores to spare)")
    if number >= 0:
        return number
    share = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun's, of this machine
    return max(1, min(16, share - 1))


def choose_autocast(precision: str, device: torch.device) -> torch.dtype | None:
    """bfloat16 where it is asked for, or where it is automatic and the device has it in hardware."""
    return torch.bfloat16 if precision == "bfloat16" or (precision == "auto" and _has_bfloat16(device)) else None


def why_autocast(precision: str, device: torch.device) -> str:
    """Why the precision is what :func:`choose_autocast` says."""
    if precision != "auto":
        return "set by you"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "this processor"
    if _has_bfloat16(device):
        return f"bfloat16, which {name} has"
    return f"float32: {name} has no bfloat16, and float16 would want its losses scaled"


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    can: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch do not tell
    return can.get("avx512_bf16", False) or can.get("amx_bf16", False)


def choose_compile(
    wish: Literal["auto", "never", "always"], device: torch.device, steps: int, recomputed: bool = False
) -> tuple[bool, str]:
    """Whether the training passes are compiled in a run of so many steps, and why."""
    if wish != "auto":
        return wish == "always", "set by you"
    if device.type != "cuda":
        return False, "on a processor it gained nothing, and a resumed run would not be bitwise the whole one"
    if recomputed:
        return False, "what is computed a second time on the way back is run as it is written"
    if steps < STEPS_WORTH_COMPILING:
        return False, f"the compiler takes a minute or more, and {steps} steps are too few to win it back"
    return True, f"the compiler's minute or two are won back over {steps} steps"
