"""What a run says of its time and its images, and how it corrects that."""

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
import torch

from coterie.config.facts import Facts
from coterie.config.schema import PretrainConfig
from coterie.methods.presets import plan_method
from coterie.models.backbone import build_backbone
from coterie.training.profiling import first_lines
from coterie.training.profiling.estimate import Estimate
from coterie.training.profiling.first_lines import FEW_IMAGES, advice_line, corrected_line, time_line
from coterie.training.profiling.operations import forward_operations

CPU, GPU = torch.device("cpu"), torch.device("cuda")
NOON = datetime(2026, 11, 29, 12, 0)


def planned(images: int, side: int = 375, backbone: str | None = None, epochs: int | None = None) -> PretrainConfig:
    return plan_method("swav", Facts(images, side), epochs=epochs, batch_size=None, backbone=backbone)[0]


def taking(seconds: float, step: float = 0.3) -> Estimate:
    return Estimate(0, 0, seconds, 0, 0, 0, step, 3, 0, 0, basis="3 steps, rehearsed just now")


@pytest.mark.parametrize(
    ("seconds", "start", "device", "text"),
    [
        (840, 0, CPU, "about 14 min: 2,800 steps of 0.3 s on this CPU, done around 12:14"),
        (50_000, 0, GPU, "about 13.9 h: 2,800 steps of 0.3 s on this GPU, done around Mon 30 Nov 01:53"),
        (259_200, 0, CPU, "about 3.0 days: 2,800 steps of 0.3 s on this CPU, done around Wed 2 Dec 12:00"),
        (60, 2600, CPU, "about 60 s left: 200 steps of 0.3 s on this CPU, done around 12:01"),
    ],
)
def test_the_time_has_an_end_and_a_source(seconds: float, start: int, device: torch.device, text: str) -> None:
    line = time_line(planned(237), 237, taking(seconds), device, start=start, now=NOON)
    assert line == f"{text} (from 3 steps, rehearsed just now)"


def test_nothing_is_said_where_nothing_is_wrong() -> None:
    assert advice_line(planned(50_000, 32), 50_000, taking(1200), CPU) is None
    assert advice_line(planned(50_000), 50_000, taking(1e6), GPU) is None  # of a GPU it is not known to be long
    assert advice_line(planned(FEW_IMAGES), FEW_IMAGES, taking(1200), CPU) is None


def test_few_images_are_few() -> None:
    line = advice_line(planned(237), 237, taking(1200), CPU)
    assert line is not None
    assert line.startswith("237 images are few")
    assert "--start-from MODEL" in line
    assert "CPU" not in line
    config = planned(237)
    started = replace(config, backbone=replace(config.backbone, weights="public.safetensors"))
    line = advice_line(started, 237, taking(1200), CPU)
    assert line is not None
    assert "--start-from" not in line  # it does that already


def test_days_on_a_cpu_are_days_and_what_is_proposed_is_shorter() -> None:
    config = planned(20_000)
    line = advice_line(config, 20_000, taking(5 * 86_400, 5.5), CPU)
    assert line is not None
    assert line.startswith("5.0 days is long for a CPU: --backbone resnet18 takes about 2.2 days; ")
    assert line.endswith("; or use a machine with a GPU")
    (epochs,) = [
        int(word) for before, word in zip(line.split(), line.split()[1:], strict=False) if before == "--epochs"
    ]
    assert 3600 * 0.5 < 5 * 86_400 * epochs / config.epochs <= 3600

    line = advice_line(config, 20_000, taking(50 * 86_400 * 10, 5.5), CPU)  # less than an epoch an hour
    assert line is not None
    assert "--epochs" not in line
    (images,) = [
        int(word) for before, word in zip(line.split(), line.split()[1:], strict=False) if before == "--images"
    ]
    hours = 50 * 240 * images / (config.total_steps(20_000) * config.batch_size)
    assert images % config.batch_size == 0
    assert 0.5 < hours <= 1


@pytest.mark.parametrize(
    ("backbone", "smaller"), [("resnet18", None), ("vit_small_patch16_224", "vit_tiny_patch16_224")]
)
def test_no_smaller_network_is_proposed_where_there_is_none(backbone: str, smaller: str | None) -> None:
    line = advice_line(planned(20_000, backbone=backbone), 20_000, taking(86_400), CPU)
    assert line is not None
    assert ("--backbone" in line) == (smaller is not None)
    assert smaller is None or f"--backbone {smaller} takes" in line


def test_what_a_network_computes_is_counted_without_computing() -> None:
    """ResNet-18 at 224 pixels: 1.81 billion multiplications, as published."""
    config = planned(20_000, backbone="resnet18")
    before = torch.get_rng_state()
    counted = forward_operations(config) / 2  # a multiplication and an addition
    assert torch.equal(before, torch.get_rng_state())
    sizes = [config.views.sizes[view] for view in config.views.roles.student_views]
    assert counted == pytest.approx(1.81e9 * sum((size / 224) ** 2 for size in sizes), rel=0.03)
    assert next(build_backbone(config.backbone, 224).parameters()).device == CPU


def test_only_what_was_wrong_is_corrected() -> None:
    assert corrected_line(600, 700, 0.12, 0.1) is None
    assert corrected_line(700, 600, 0.1, 0.12) is None
    assert (
        corrected_line(600, 1500, 0.12, 0.048)
        == "now about 25 min in all, not 10 min: a step takes 0.12 s, not 0.048 s"
    )
    assert corrected_line(1500, 600, 12.3, 30.6) == "now about 10 min in all, not 25 min: a step takes 12 s, not 31 s"


def test_the_page_states_the_thresholds() -> None:
    page = (Path(__file__).parents[3] / "docs" / "plan.md").read_text()
    assert f"{FEW_IMAGES:,}" in page
    assert f"{first_lines.LONG_HOURS:.0f} hours" in page
