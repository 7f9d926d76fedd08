import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.grouping.assignment import Sinkhorn, assign
from coterie.grouping.sinkhorn import sinkhorn_bias


def scores(rows: int, groups: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, groups, generator=generator, dtype=torch.float64) * 2 - 1


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(1, 40), groups=st.integers(2, 30), seed=st.integers(0, 999), epsilon=st.floats(0.01, 1.0))
def test_codes_are_distributions_and_float32_agrees(rows: int, groups: int, seed: int, epsilon: float) -> None:
    exact = assign(Sinkhorn(epsilon), scores(rows, groups, seed))
    torch.testing.assert_close(exact.sum(dim=1), torch.ones(rows, dtype=torch.float64))
    single = assign(Sinkhorn(epsilon), scores(rows, groups, seed).float())
    assert single.isfinite().all()
    torch.testing.assert_close(single.double(), exact, atol=2e-3, rtol=0)


def test_many_iterations_use_all_groups_equally() -> None:
    codes = assign(Sinkhorn(0.1, 500), scores(60, 6, 0))
    torch.testing.assert_close(codes.sum(dim=0), torch.full((6,), 10.0, dtype=torch.float64))


def test_a_common_shift_changes_nothing_but_a_shift_of_single_rows_does() -> None:
    values = scores(20, 30, 1)
    codes = assign(Sinkhorn(0.05), values)
    torch.testing.assert_close(assign(Sinkhorn(0.05), values + 700), codes)
    torch.testing.assert_close(assign(Sinkhorn(0.05), values - values.max(dim=0).values), codes)  # per group
    per_row = assign(Sinkhorn(0.05), values - values.max(dim=1, keepdim=True).values)
    assert (per_row - codes).abs().max() > 0.01


def test_views_are_balanced_independently() -> None:
    both = torch.stack([scores(8, 5, 2), scores(8, 5, 3)])
    together = assign(Sinkhorn(), both)
    for view in range(2):
        torch.testing.assert_close(together[view], assign(Sinkhorn(), both[view]))


def test_identical_rows_get_uniform_codes() -> None:
    codes = assign(Sinkhorn(), scores(1, 12, 4).expand(9, 12))
    torch.testing.assert_close(codes, torch.full((9, 12), 1 / 12, dtype=torch.float64))


def test_no_gradient_flows_into_codes() -> None:
    values = scores(4, 3, 5).requires_grad_()
    assert not assign(Sinkhorn(), values).requires_grad
    assert not sinkhorn_bias(values, 3).requires_grad


@pytest.mark.parametrize("bad", [{"temperature": 0.0}, {"iterations": 0}])
def test_impossible_settings_are_refused(bad: dict) -> None:
    with pytest.raises(Exception, match=next(iter(bad))):
        Sinkhorn(**bad)


@pytest.mark.parametrize("normalized", [False, True])
def test_chunks_change_nothing(normalized: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.stack([scores(41, 7, 6), scores(41, 7, 7)]) / 0.05
    whole = sinkhorn_bias(logits, 5, normalized=normalized)
    streamed = sinkhorn_bias(lambda: logits.split(9, dim=1), 5, normalized=normalized)
    monkeypatch.setattr("coterie.grouping.chunks.CPU_ELEMENTS", 3 * 2 * 7)
    for each in (streamed, sinkhorn_bias(logits, 5, normalized=normalized)):
        torch.testing.assert_close(each, whole, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("scale", [1.0, 100.0, 10000.0])
@pytest.mark.parametrize(("rows", "groups"), [(200, 50), (40, 300)])
def test_each_iteration_divides_columns_then_rows_at_any_scale(scale: float, rows: int, groups: int) -> None:
    """The oracle is the iteration as the paper writes it, in log space throughout; float32 stays finite."""
    logits = scale * torch.randn(rows, groups, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plan = logits
    for _ in range(4):
        plan = plan - plan.logsumexp(dim=0, keepdim=True)
        plan = plan - plan.logsumexp(dim=1, keepdim=True)
    codes = (logits + sinkhorn_bias(logits, 4)).softmax(dim=1)
    torch.testing.assert_close(codes, plan.exp(), rtol=0, atol=1e-11)
    single = sinkhorn_bias(logits.float(), 4)
    assert single.isfinite().all()
    torch.testing.assert_close((logits + single).softmax(dim=1), codes, rtol=0, atol=2e-3)
