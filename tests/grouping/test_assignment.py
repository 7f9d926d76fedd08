"""Each kind of assignment by itself, on cases small enough to compute by hand."""

import math

import pytest
import torch

from coterie.errors import BadConfig
from coterie.grouping.assignment import (
    Assignment,
    Centered,
    CenteredConfig,
    Nearest,
    Sinkhorn,
    Softmax,
    assign,
    build_assignment,
    label_passes,
    label_rows,
)
from coterie.optim.schedule import Constant, Linear
from coterie.types import Progress

TABLE = torch.tensor([[1.0, 1.0], [3.0, 1.0]], dtype=torch.float64)
"""exp(scores) of two rows and two groups."""

KINDS: list[Assignment] = [Sinkhorn(), Sinkhorn(hard=True), Nearest(), Softmax(), Centered((4,), Constant(0.04))]
HARD = (Sinkhorn(hard=True), Nearest())


def test_defaults_are_the_published_values() -> None:
    """methods.md, sections 1 (SwAV: epsilon 0.05, 3 iterations, soft codes) and 9 (DINO: 0.04, 0.9; MSN: 0.1 x 0.25)."""
    assert Sinkhorn() == Sinkhorn(temperature=0.05, iterations=3, hard=False, normalized=False, tolerance=0.0)
    assert Softmax() == Softmax(temperature=0.025)
    assert CenteredConfig() == CenteredConfig(temperature=Constant(0.04), momentum=0.9)
    assert Centered((2,), Constant(0.04)).momentum == 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_follows_the_protocol(kind: Assignment) -> None:
    assert isinstance(kind, Assignment)
    assert kind.uses_memory == isinstance(kind, Sinkhorn)
    assert kind.hard == (kind in HARD)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_not_overwritten_and_targets_have_no_gradient(kind: Assignment) -> None:
    scores = torch.randn(2, 6, 4, requires_grad=True)
    before = scores.detach().clone()
    targets = assign(kind, scores)
    kind.update_statistics(scores.detach(), 0)
    assert torch.equal(scores, before)
    assert not targets.requires_grad
    assert targets.shape == ((2, 6) if kind.hard else (2, 6, 4))


def test_sinkhorn_divides_the_columns_and_then_the_rows() -> None:
    """Columns sum to 4 and 2, so the rows are (1/4, 1/2) and (3/4, 1/2) before they are divided by their sums."""
    once, twice = (assign(Sinkhorn(1.0, iterations), TABLE.log()) for iterations in (1, 2))
    torch.testing.assert_close(once, torch.tensor([[1 / 3, 2 / 3], [3 / 5, 2 / 5]], dtype=torch.float64))
    torch.testing.assert_close(twice, torch.tensor([[4 / 11, 7 / 11], [12 / 19, 7 / 19]], dtype=torch.float64))
    assert assign(Sinkhorn(1.0, 2, hard=True), TABLE.log()).tolist() == [1, 0]


def test_sinkhorn_may_start_from_probabilities() -> None:
    """Rows (1/2, 1/2) and (3/4, 1/4); columns sum to 5/4 and 3/4."""
    codes = assign(Sinkhorn(1.0, 1, normalized=True), TABLE.log())
    torch.testing.assert_close(codes, torch.tensor([[3 / 8, 5 / 8], [9 / 14, 5 / 14]], dtype=torch.float64))


def test_sinkhorn_stops_within_the_tolerance() -> None:
    scores = torch.rand(30, 5, dtype=torch.float64)
    loose, twice = Sinkhorn(0.1, 1000, tolerance=1e6), Sinkhorn(0.1, 2)
    assert torch.equal(assign(loose, scores), assign(twice, scores))  # the first change is that of the second iteration
    settled = assign(Sinkhorn(0.1, 1000, tolerance=1e-12), scores)
    torch.testing.assert_close(settled.sum(dim=0), torch.full((5,), 6.0, dtype=torch.float64))


def test_only_the_last_rows_are_returned_but_all_are_balanced() -> None:
    scores = torch.rand(2, 9, 4, dtype=torch.float64)
    assert torch.equal(assign(Sinkhorn(), scores, last=3), assign(Sinkhorn(), scores)[:, -3:])
    assert (assign(Sinkhorn(), scores, last=3) - assign(Sinkhorn(), scores[:, -3:])).abs().max() > 1e-3


def test_nearest_takes_the_largest_score() -> None:
    assert assign(Nearest(), torch.tensor([[0.2, 0.9, -1.0], [0.1, 0.0, 0.05]])).tolist() == [1, 0]


def test_softmax_sharpens_by_its_temperature() -> None:
    codes = assign(Softmax(0.025), torch.tensor([[0.025 * math.log(3), 0.0]], dtype=torch.float64))
    torch.testing.assert_close(codes, torch.tensor([[0.75, 0.25]], dtype=torch.float64))


def test_the_center_is_used_first_and_then_moves_to_the_mean_of_all_views() -> None:
    kind = Centered((2, 2), Constant(0.5), momentum=0.9).double()
    scores = torch.tensor([[[1.0, 0.0], [3.0, 0.0]], [[2.0, 1.0], [2.0, 3.0]]], dtype=torch.float64)  # mean (2, 1)
    torch.testing.assert_close(assign(kind, scores, head=1), (scores / 0.5).softmax(dim=-1))
    kind.update_statistics(scores, 1)
    assert kind.center1.tolist() == pytest.approx([0.2, 0.1])
    assert kind.center0.tolist() == [0.0, 0.0]
    centered = (scores - torch.tensor([0.2, 0.1], dtype=torch.float64)) / 0.5
    torch.testing.assert_close(assign(kind, scores, head=1), centered.softmax(dim=-1))
    kind.update_statistics(scores, 1)
    assert kind.center1.tolist() == pytest.approx([0.38, 0.19])  # 0.9 x 0.2 + 0.1 x 2, and half of it


def test_the_centers_are_saved() -> None:
    kind = Centered((3, 2), Constant(0.04))
    assert {name: tuple(each.shape) for name, each in kind.state_dict().items()} == {"center0": (3,), "center1": (2,)}


def test_the_temperature_follows_its_schedule() -> None:
    kind = Centered((2,), Linear(0.04, 0.08))
    scores = torch.tensor([[0.06 * math.log(3), 0.0]], dtype=torch.float64)
    assert kind.temperature_at(Progress(4, 5, 10)) == pytest.approx(0.06)
    codes = assign(kind, scores, Progress(4, 5, 10))
    torch.testing.assert_close(codes, torch.tensor([[0.75, 0.25]], dtype=torch.float64))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.hard])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_codes_are_float32_or_wider(kind: Assignment, dtype: torch.dtype) -> None:
    """In half precision already exp(1 / 0.05) overflows."""
    scores = torch.rand(50, 4).mul(2).sub(1).to(dtype)
    codes = assign(kind, scores)
    assert codes.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(codes.double(), assign(kind, scores.double()), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", [Sinkhorn(0.1, 20), Nearest(), Softmax(), Centered((7,), Constant(0.04)).double()])
def test_labels_of_many_rows_are_the_targets_in_chunks(kind: Assignment, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, centers = (torch.nn.functional.normalize(torch.randn(n, 5, dtype=torch.float64), dim=1) for n in (101, 7))
    kind.update_statistics(torch.rand(4, 7, dtype=torch.float64), 0)  # a center that is not zero
    at_once = assign(kind, rows @ centers.T)
    expected = at_once if kind.hard else at_once.argmax(dim=1)
    monkeypatch.setattr("coterie.grouping.chunks.CPU_ELEMENTS", 7 * 10)
    passes: list[None] = []
    assert torch.equal(label_rows(kind, rows, centers, tick=lambda: passes.append(None)), expected)
    assert len(passes) == label_passes(kind) == (21 if isinstance(kind, Sinkhorn) else 1)


def test_labeling_updates_the_statistics_once_with_the_mean_score(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, centers = torch.rand(23, 3, dtype=torch.float64), torch.rand(4, 3, dtype=torch.float64)
    monkeypatch.setattr("coterie.grouping.chunks.CPU_ELEMENTS", 4 * 5)
    kind = Centered((4,), Constant(0.04), momentum=0.75).double()
    label_rows(kind, rows, centers)
    torch.testing.assert_close(kind.center0, 0.25 * (rows @ centers.T).mean(dim=0))


def test_a_kind_without_state_is_its_own_settings() -> None:
    for config in (Sinkhorn(0.03), Nearest(), Softmax(0.1)):
        assert build_assignment(config, (3,)) is config
    built = build_assignment(CenteredConfig(Constant(0.07), 0.8), (3, 5))
    assert isinstance(built, Centered)
    assert (built.temperature, built.momentum) == (Constant(0.07), 0.8)
    assert [len(each) for each in built.buffers()] == [3, 5]


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Sinkhorn, {"temperature": 0.0}, r"temperature is 0: it must be above 0 \(SwAV uses 0.05\)"),
        (Sinkhorn, {"iterations": 0}, "iterations is 0: it must be at least 1"),
        (Sinkhorn, {"tolerance": -1.0}, "tolerance is -1: it cannot be negative"),
        (Softmax, {"temperature": -0.1}, r"temperature is -0.1: .*MSN uses 0.025"),
        (CenteredConfig, {"temperature": Linear(0.04, 0.0)}, r"temperature is 0: .*DINO uses 0.04"),
        (CenteredConfig, {"momentum": 1.5}, "momentum is 1.5: give a number from 0 to 1"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(kind: type, settings: dict, message: str) -> None:
    with pytest.raises(BadConfig, match=rf"^assignment\.{message}") as caught:
        kind(**settings)
    assert "\n" not in str(caught.value)
