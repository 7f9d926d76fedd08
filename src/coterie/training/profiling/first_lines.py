"""What a run says about its time before the first step, and after the first steps if it was wrong."""

from dataclasses import replace
from datetime import datetime, timedelta

import torch

from coterie.config.schema import PretrainConfig
from coterie.formatting import format_duration
from coterie.training.profiling.estimate import Estimate
from coterie.training.profiling.operations import forward_operations

FEW_IMAGES = 5000
"""Fewer images are few: 6,000 are the fewest from which training was measured to learn (``docs/plan.md``)."""
LONG_HOURS = 6.0
"""A run on a CPU that takes longer is told what would make it shorter."""
SMALLER = {"resnet": "resnet18", "vit": "vit_tiny_patch16_224"}
"""The smaller network that is suggested in place of one whose name begins so."""
WORTH_CHANGING = 0.7
"""A network is suggested if it computes less than this share of what the run's own does."""
WRONG_BY = 1.25
"""By which factor an estimate must have been wrong for a line that corrects it."""


def time_line(
    config: PretrainConfig, images: int, estimate: Estimate, device: torch.device, *, start: int = 0, now: datetime
) -> str:
    """How long the run will take, and what that was measured on.

    Args:
        config: settings of the run.
        images: number of images in its source.
        estimate: the time of what is left of it.
        device: where it computes.
        start: steps already done.
        now: the present time.
    """
    end = now + timedelta(seconds=estimate.seconds)
    moment = f"{end:%H:%M}" if end.date() == now.date() else f"{end:%a} {end.day} {end:%b %H:%M}"
    where = "CPU" if device.type == "cpu" else "GPU"
    steps = config.total_steps(images) - start
    length = f"{format_duration(estimate.seconds)}{' left' if start else ''}"
    return (
        f"about {length}: {steps:,} steps of {format_seconds(estimate.step)} on this {where}, done around {moment} "
        f"(from {estimate.basis})"
    )


def advice_line(config: PretrainConfig, images: int, estimate: Estimate, device: torch.device) -> str | None:
    """What to know, and to change, before such a run: few images, a long run on a CPU; None: nothing."""
    lines = []
    if images < FEW_IMAGES:
        weights = "" if config.backbone.weights else ", or start from public weights (--start-from MODEL)"
        lines.append(
            f"{images:,} images are few, as training has been seen to help from some 6,000: add images{weights}"
        )
    if device.type == "cpu" and estimate.seconds > 3600 * LONG_HOURS:
        shorter = [*_smaller_network(config, estimate), *_fitting_length(config, images, estimate)]
        use = f"{'; '.join(shorter)}; " if shorter else ""
        lines.append(f"{format_duration(estimate.seconds)} is long for a CPU: {use}or use a machine with a GPU")
    return "; ".join(lines) or None


def corrected_line(said: float, now: float, step: float, said_step: float) -> str | None:
    """A line that corrects the estimate of the whole time, if it was wrong by a quarter or more."""
    if max(said, now) < WRONG_BY * min(said, now):
        return None
    return (
        f"now about {format_duration(now)} in all, not {format_duration(said)}: a step takes {format_seconds(step)}, not "
        f"{format_seconds(said_step)}"
    )


def format_seconds(seconds: float) -> str:
    """Write the time of a step."""
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def _smaller_network(config: PretrainConfig, estimate: Estimate) -> list[str]:
    """The time with a smaller network, from how much it computes; none where the weights are those of this one."""
    if config.backbone.weights is not None:
        return []
    own = config.backbone.name
    name = next((smaller for start, smaller in SMALLER.items() if own.startswith(start)), own)
    share = 1.0 if name == own else forward_operations(_with_network(config, name)) / forward_operations(config)
    if share > WORTH_CHANGING:
        return []
    seconds = estimate.seconds - (1 - share) * (estimate.training + estimate.filling + estimate.evaluating)
    return [f"--backbone {name} takes about {format_duration(seconds)}"]


def _fitting_length(config: PretrainConfig, images: int, estimate: Estimate) -> list[str]:
    """The epochs, or else the images, that fit into an hour."""
    steps = int(config.total_steps(images) * 3600 / estimate.seconds)
    epochs = steps // (images // config.batch_size)
    if epochs:
        return [f"--epochs {epochs} about an hour"]
    return [f"--images {steps * config.batch_size} about an hour"] if steps else []


def _with_network(config: PretrainConfig, name: str) -> PretrainConfig:
    return replace(config, backbone=replace(config.backbone, name=name))
