import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from coterie.optim.schedule import Constant
from coterie.training.monitor import PATIENCE_LINES, SETTLED_STEPS, Collapsed, Monitor, NotFinite
from coterie.types import Progress, StepResult, Target

CODES = torch.full((8, 10), 0.1)


def result(loss: float, z: torch.Tensor, codes: torch.Tensor) -> StepResult:
    return StepResult(torch.tensor(loss), z, [Target(codes, 0, 0)], torch.arange(z.shape[1]))


def watched(**settings) -> tuple[Monitor, list[dict]]:
    lines: list[dict] = []
    return Monitor((10,), 8, Constant(0.1), log_steps=2, write=lines.append, **settings), lines


def spread_out(seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(2, 64, 16, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_figures_of_a_healthy_step() -> None:
    monitor, lines = watched()
    codes = F.one_hot(torch.arange(8) % 4, 10).float()
    for step in range(4):
        monitor.on_step_end(Progress(step, 10, 100), result(1.0 + step, spread_out(step), codes))
    assert [line["step"] for line in lines] == [1, 3]
    assert lines[1]["loss"] == 3.5
    assert lines[1]["loss_over_ln_k"] == pytest.approx(3.5 / math.log(10))
    assert (lines[1]["groups_used"], lines[1]["groups"]) == (4, 10)
    assert lines[1]["perplexity"] == pytest.approx(4.0)
    assert lines[1]["spread"] > 0.95
    assert not any("warning" in line for line in lines)


def test_a_group_is_forgotten_after_the_window() -> None:
    monitor, lines = watched()
    first, later = (
        F.one_hot(torch.zeros(8, dtype=torch.int64), 10).float(),
        F.one_hot(torch.ones(8, dtype=torch.int64), 10).float(),
    )
    for step in range(2 * monitor.window):
        monitor.on_step_end(Progress(step, 10, 1000), result(1.0, spread_out(step), first if step == 0 else later))
    assert lines[0]["groups_used"] == 2
    assert lines[-1]["groups_used"] == 1


def test_hard_labels_and_images_without_one() -> None:
    monitor, lines = watched()
    labels = torch.tensor([3, 3, 5, -100])
    for step in range(2):
        made = StepResult(torch.tensor(1.0), spread_out(0), [Target(labels, 0, None)], torch.arange(64))
        monitor.on_step_end(Progress(step, 10, 100), made)
    assert lines[0]["groups_used"] == 2
    assert 1 < lines[0]["perplexity"] < 2


def collapsing(monitor: Monitor, what: str, steps: int) -> None:
    z = torch.ones(2, 64, 16) / 4 if what == "one point" else spread_out(0)
    loss = 1.0 if what == "one point" else math.log(10)
    for step in range(steps):
        monitor.on_step_end(Progress(step, 10, 1000), result(loss, z, torch.full((8, 10), 0.1)))


@pytest.mark.parametrize(("what", "words"), [("one point", "same embedding"), ("ln K", "do not depend on the image")])
def test_a_collapse_is_warned_of_once_and_may_stop_the_run(what: str, words: str) -> None:
    monitor, lines = watched()
    collapsing(monitor, what, SETTLED_STEPS + 4 * PATIENCE_LINES)
    warnings = [line["warning"] for line in lines if "warning" in line]
    assert len(warnings) == 1
    assert words in warnings[0]
    assert "assignment.temperature" in warnings[0]
    stopping, _ = watched(stop_on_collapse=True)
    with pytest.raises(Collapsed, match=words):
        collapsing(stopping, what, SETTLED_STEPS + 4 * PATIENCE_LINES)


def test_a_loss_of_ln_k_at_the_start_is_no_collapse() -> None:
    monitor, lines = watched()
    collapsing(monitor, "ln K", SETTLED_STEPS)
    assert len(lines) > PATIENCE_LINES
    assert not any("warning" in line for line in lines)


def test_a_loss_that_is_no_number_ends_the_run() -> None:
    monitor, _ = watched()
    monitor.on_step_end(Progress(0, 10, 100), result(float("nan"), spread_out(0), torch.full((8, 10), 0.1)))
    with pytest.raises(NotFinite, match=r"step 0 .* a lower learning_rate\.peak") as raised:
        monitor.on_step_end(Progress(1, 10, 100), result(1.0, spread_out(0), torch.full((8, 10), 0.1)))
    assert raised.value.details["step"] == 0
    assert raised.value.details["images"] == list(range(64))


def test_a_gradient_that_is_no_number_ends_the_run_although_the_loss_is_one() -> None:
    monitor, _ = watched()
    ill = replace(result(1.0, spread_out(0), torch.full((8, 10), 0.1)), gradient_norm=torch.tensor(float("inf")))
    monitor.on_step_end(Progress(0, 10, 100), ill)
    with pytest.raises(NotFinite, match="gradient inf at step 0"):
        monitor.on_step_end(Progress(1, 10, 100), result(1.0, spread_out(0), torch.full((8, 10), 0.1)))


def test_a_regularizer_that_is_not_finite_is_named() -> None:
    monitor, _ = watched()
    ill = replace(result(float("inf"), spread_out(0), CODES), regularization=torch.tensor(float("inf")))
    monitor.on_step_end(Progress(0, 10, 100), ill)
    with pytest.raises(
        NotFinite, match=r"loss inf at step 0 .* because of the regularizer.*smaller regularizer\.weight"
    ):
        monitor.check_finite()
    broken, _ = watched()  # here it is the network: its embeddings are no numbers either
    broken.on_step_end(Progress(0, 10, 100), replace(ill, z=spread_out(0) * math.nan))
    with pytest.raises(NotFinite, match=r"a lower learning_rate\.peak or regularizer\.weight"):
        broken.check_finite()


def pulled(share: float) -> StepResult:
    """A step with a regularizer of that share of the gradient."""
    squares = torch.tensor([(1 - share) ** 2, share**2], dtype=torch.float64)
    made = result(3.0, spread_out(0), CODES)
    return replace(made, regularization=torch.tensor(1.5), gradient_squares=squares)


def test_figures_of_a_regularizer() -> None:
    monitor, lines = watched()
    for step, share in enumerate((0.25, 0.25, 0.0, 0.8)):
        monitor.on_step_end(Progress(step, 10, 100), pulled(share))
    assert lines[0]["regularization"] == 1.5
    assert lines[0]["loss_over_ln_k"] == pytest.approx(1.5 / math.log(10)), "that of the predictions"
    assert lines[0]["regularizer_gradient"] == pytest.approx(0.25)
    assert lines[1]["regularizer_gradient"] == pytest.approx(0.8 / (0.8 + math.sqrt(1 + 0.2**2))), (
        "of both steps together"
    )
    plain, without = watched()
    for step in range(2):
        plain.on_step_end(Progress(step, 10, 100), result(1.0, spread_out(0), CODES))
    assert not {"regularization", "regularizer_gradient"} & without[0].keys()


def test_a_heavy_regularizer_is_warned_of_once_with_a_weight_that_is_not(tmp_path) -> None:
    monitor, lines = watched(regularizer_weight=1.0)
    for step in range(40):
        if step == 20:
            torch.save(monitor.state_dict(), tmp_path / "monitor.pt")
            monitor = Monitor((10,), 8, Constant(0.1), log_steps=2, write=lines.append, regularizer_weight=1.0)
            monitor.load_state_dict(torch.load(tmp_path / "monitor.pt", weights_only=True))
        monitor.on_step_end(Progress(step, 10, 100), pulled(0.93))
    ((step, warning),) = [(line["step"], line["warning"]) for line in lines if "warning" in line]
    assert step == 9, "at the end of the first epoch"
    assert warning.startswith("the regularizer is too heavy: 93.0 % of the gradient")
    assert warning.endswith("--set regularizer.weight=0.02 or less")


@pytest.mark.parametrize("share", [0.05, 0.14, 0.32, 0.57])  # of weights from 0.003 to 0.1 with swav
def test_a_regularizer_beside_predictions_is_no_reason_to_warn(share: float) -> None:
    monitor, lines = watched(regularizer_weight=0.01)
    for step in range(40):
        monitor.on_step_end(Progress(step, 10, 100), pulled(share))
    assert not any("warning" in line for line in lines)


def test_a_regularizer_alone_is_warned_of_too() -> None:
    monitor, lines = watched()
    for step in range(10):
        monitor.on_step_end(Progress(step, 10, 100), pulled(1.0))
    assert lines[-1]["warning"].endswith("--set regularizer.weight=..., a smaller one")


def test_state_round_trip_writes_the_same_line(tmp_path) -> None:
    whole, lines = watched()
    first, again = watched()
    for step in range(4):
        plain = result(1.0 + step, spread_out(step), F.one_hot(torch.arange(8) % (step + 1), 10).float())
        pull = torch.tensor([1.0, step], dtype=torch.float64)
        step_result = replace(plain, regularization=torch.tensor(0.1 * step), gradient_squares=pull)
        whole.on_step_end(Progress(step, 10, 100), step_result)
        if step == 3:
            torch.save(first.state_dict(), tmp_path / "monitor.pt")
            first, again = watched()
            first.load_state_dict(torch.load(tmp_path / "monitor.pt", weights_only=True))
        first.on_step_end(Progress(step, 10, 100), step_result)
    timed = {"images_per_second", "data_wait"}
    assert {k: v for k, v in again[-1].items() if k not in timed} == {
        k: v for k, v in lines[-1].items() if k not in timed
    }
