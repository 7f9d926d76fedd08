"""What fits into a budget, on machines whose rehearsal is given."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coterie.config.facts import Facts
from coterie.config.from_options import Resolved
from coterie.config.hardware import Runtime
from coterie.config.toml import to_dict, to_toml
from coterie.errors import UserError
from coterie.methods.budget import MARGIN, Fitted, choose_method
from coterie.methods.budget_table import budget_table, measured_line
from coterie.methods.resolve import fit_run, open_request, resolve_run
from coterie.reporting.run_callbacks import embedded_images
from coterie.training.profiling.estimate import estimate
from coterie.training.profiling.extrapolation import Rehearsal
from coterie.training.profiling.operations import forward_operations

ON_CPU = ("run.device=cpu",)
SMALL = np.random.default_rng(0).integers(0, 256, (640, 16, 16, 3), dtype=np.uint8)
LARGE = np.random.default_rng(0).integers(0, 256, (64, 150, 200, 3), dtype=np.uint8)


def machine(speed: float, asked: list[Resolved] | None = None) -> Callable[[Resolved], Rehearsal]:
    """A machine of so many operations per second; ``asked`` receives what it rehearses."""

    def measure(run: Resolved) -> Rehearsal:
        if asked is not None:
            asked.append(run)
        each = 3 * forward_operations(run.config) / speed
        return Rehearsal(each * run.config.batch_size, 0, 0, each / 3, 0.5, 32, 32, 10, "2026-11-30", threads=1)

    return measure


def fitted(
    data: Any, method: str | None = None, speed: float = 1e11, used: float = 0.0, asked: Any = None, **options: Any
) -> Fitted:
    settings = [*ON_CPU, *options.pop("settings", ())]
    return fit_run(method, data, {"settings": settings, **options}, machine(speed, asked), lambda: used)


def seconds(run: Fitted, epochs: int) -> float:
    """What the plan would say of so many epochs."""
    config, images = replace(run.resolved.config, epochs=epochs), len(run.resolved.source)
    assert run.rehearsal is not None
    return estimate(config, images, run.rehearsal, **embedded_images(config, images, Runtime())).seconds


@pytest.mark.parametrize(("method", "time"), [("swav", "5m"), ("smog", "2m"), (None, "3m")])
def test_as_many_epochs_as_fit(method: str | None, time: str) -> None:
    run = fitted(SMALL, method, time=time, used=20)
    epochs, left = run.resolved.config.epochs, 60 * float(time[:-1]) * (1 - MARGIN) - 20
    assert 1 < epochs < 400
    assert seconds(run, epochs) <= left < seconds(run, epochs + 1)
    assert run.resolved.reasons["epochs"].startswith(
        f"what fits into {time[:-1]} min on this CPU, fewer than the 400 that"
    )
    assert run.resolved.config.run.minutes == float(time[:-1])
    assert run.resolved.config.method == (method or "simclr")


def test_the_method_goes_by_the_minutes() -> None:
    small = Facts(images=10_000, side=32)
    assert [choose_method(small, minutes)[0] for minutes in (1, 5, 20, 60, 600)] == ["simclr"] * 2 + ["swav"] * 3


def test_what_follows_from_epochs_follows_from_those_that_fit() -> None:
    run = fitted(SMALL, "deepcluster_v2", time="1m")
    as_requested = resolve_run(
        "deepcluster_v2", SMALL, {"epochs": run.resolved.config.epochs, "settings": [*ON_CPU, "backbone.width=0.1875"]}
    )
    assert run.resolved.config.refresh == as_requested.config.refresh
    assert run.resolved.config.groups == as_requested.config.groups


def test_a_faster_machine_trains_a_wider_network() -> None:
    asked: list[Resolved] = []
    slow, fast = (fitted(SMALL, time="10m", speed=speed, asked=asked) for speed in (1e9, 1e14))
    assert (slow.resolved.config.backbone.width, fast.resolved.config.backbone.width) == (3 / 16, 1)
    assert "short for 128,000 images seen" in slow.resolved.reasons["backbone.width"]
    assert "the largest of 4" in fast.resolved.reasons["backbone.width"]
    assert len(asked) <= 4  # the guess, and where it was wrong, what was chosen
    assert asked[-1].config.backbone.width == 1


@pytest.mark.parametrize(("speed", "side"), [(1e9, 96), (1e13, 171)])
def test_photographs_on_a_cpu_are_seen_small_by_a_small_network(speed: float, side: int) -> None:
    config, reasons = (run := fitted(LARGE, time="10m", speed=speed)).resolved.config, run.resolved.reasons
    assert config.backbone.name == "resnet18"
    assert 64 <= config.views.crops[0].size <= 128
    assert config.views.image_size == side
    assert reasons["views.crops"].startswith(f"whole images are seen at {side} pixels")
    assert run.resolved.config.optimizer == resolve_run("simclr", SMALL, {}).config.optimizer


def test_what_the_user_sets_is_not_chosen(tmp_path: Path) -> None:
    run = fitted(LARGE, "swav", time="10m", backbone="resnet34", settings=["views.crops.0.size=40"])
    config = run.resolved.config
    assert (config.backbone.name, config.backbone.width, config.views.image_size) == ("resnet34", 1.0, None)
    assert config.views.crops[0].size == 40
    run = fitted(SMALL, "swav", time="10m", settings=["backbone.width=0.125"])
    assert run.resolved.config.backbone.width == 0.125
    run = fitted(LARGE, "swav_imagenet_256", time="10h", batch_size=32, settings=["memory=none", "groups.counts=[16]"])
    assert run.resolved.config.backbone.name == "resnet50"
    assert run.resolved.config.views.crops[0].size == 224


@pytest.mark.parametrize(("asked", "epochs"), [(3, 3), (200_000, None)])
def test_of_a_budget_and_epochs_the_smaller_ends_the_run(asked: int, epochs: int | None) -> None:
    run = fitted(SMALL, "swav", time="1m", epochs=asked)
    config, why = run.resolved.config, run.resolved.reasons["epochs"]
    assert config.epochs == epochs or (epochs is None and config.epochs < 400)
    wanted = "requested; that fits into 1 min" if epochs else "what fits into 1 min on this CPU, fewer than the 200000"
    assert why.replace("60 s", "1 min").startswith(wanted), why
    assert run.most_steps == asked * (640 // config.batch_size)


def test_a_budget_of_images_keeps_the_last_step() -> None:
    run = fitted(SMALL, "swav", time="10m", images=1000)
    assert (run.resolved.config.images, run.resolved.config.epochs) == (1000, 2)


def test_a_config_file_is_the_most_that_is_trained(tmp_path: Path) -> None:
    whole = fitted(SMALL, "simclr", time="1m").resolved.config
    (tmp_path / "config.toml").write_text(to_toml(whole))
    again = fitted(SMALL, "simclr", config=tmp_path / "config.toml")
    assert again.resolved.config == whole
    slower = fitted(SMALL, "simclr", config=tmp_path / "config.toml", speed=2e10)
    assert slower.resolved.config.epochs < whole.epochs
    assert "requested" in slower.resolved.reasons["epochs"]


def test_too_short_a_budget_says_the_shortest() -> None:
    with pytest.raises(
        UserError, match=r"--time 12s is too short for one epoch of 640 images: give --time (\w+) or more"
    ) as raised:
        fitted(SMALL, "swav", time="12s", speed=1e9, used=5)
    shortest = str(raised.value).split()[-3]
    assert fitted(SMALL, "swav", time=shortest, speed=1e9, used=5).resolved.config.epochs == 1


def test_without_time_and_epochs_a_cpu_trains_about_an_hour() -> None:
    run = fitted(LARGE, "swav", speed=1e11)
    assert run.resolved.config.run.minutes is None
    assert run.resolved.config.backbone.name == "resnet18"
    assert "the default without --time and --epochs" in run.resolved.reasons["backbone.name"]
    assert seconds(run, run.resolved.config.epochs) < 3600
    as_before = fitted(LARGE, "swav", epochs=10)
    assert as_before.rehearsal is None
    assert as_before.resolved.config == resolve_run("swav", LARGE, {"epochs": 10, "settings": list(ON_CPU)}).config
    quick = fitted(SMALL[:64, :8, :8], "swav", settings=["backbone.width=0.125"])
    assert quick.resolved.config.epochs == 400


def test_nothing_fits_by_default_but_one_epoch() -> None:
    run = fitted(LARGE, "swav", speed=1e6)
    assert run.resolved.config.epochs == 1
    assert run.resolved.reasons["epochs"].startswith("one epoch takes longer than about 60 min")


def test_where_nothing_can_be_rehearsed_the_length_is_a_guess() -> None:
    run = fit_run("swav", SMALL, {"time": "1m", "settings": list(ON_CPU)}, lambda _: None, lambda: 0.0)
    assert run.rehearsal is None
    assert "guessed" in run.resolved.reasons["epochs"]


def test_a_table_of_budgets_is_scaled_from_one_rehearsal() -> None:
    request = open_request(None, LARGE, {"settings": list(ON_CPU)})
    config = fitted(LARGE, "simclr", time="1h", speed=1e11).resolved.config
    rehearsal = machine(1e9)(Resolved(request.source, config, {}))
    rows = budget_table(request, config, rehearsal, 10.0, "cpu")
    assert [row.minutes for row in rows] == [10, 60, 600]
    seen = [row.images_seen for row in rows]
    assert seen == sorted(seen)
    assert seen[0] > 0
    assert [row.cells[0] for row in rows] == ["10 min", "60 min", "10.0 h"]
    sizes = [row.config.views.center_crop_size for row in rows if row.config is not None]
    assert sizes == sorted(sizes)
    assert measured_line(request.facts) is None
    assert "CIFAR-10" in str(measured_line(open_request(None, SMALL, {}).facts))
    slow = budget_table(request, config, replace(rehearsal, step=1e4), 10.0, "cpu")
    assert slow[0].cells[1] == "too short for one epoch"


def test_a_lone_word_names_the_images(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", SMALL)
    run = fitted((), str(tmp_path / "images.npy"), time="1m")
    assert (run.resolved.config.method, run.resolved.config.data) == ("simclr", (str(tmp_path / "images.npy"),))
    assert run.resolved.reasons["method"].startswith("no method is named")
    saved = to_dict(run.resolved.config)
    again = fit_run(str(tmp_path / "images.npy"), (), {"time": "1m"}, machine(1e11), lambda: 0.0, saved=saved)
    assert again.resolved.config == run.resolved.config  # the same command again
