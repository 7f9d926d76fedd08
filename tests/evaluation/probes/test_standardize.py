import math

import pytest
import torch

from coterie.evaluation.probes.linear import linear
from coterie.evaluation.probes.standardize import Standardizer

EPS = torch.finfo(torch.float32).eps


@pytest.mark.parametrize("elements", [2_000_000, 600])
def test_standardized_rows_have_mean_zero_and_deviation_one(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coterie.grouping.chunks.CPU_ELEMENTS", elements)
    rows = torch.randn(5000, 6) * torch.logspace(-3, 3, 6) + 5
    rows[:, 2] = 0.1  # constant, and not exact in binary
    found = Standardizer.fit(rows)(rows).double()
    # The mean is a float32, wrong by half an eps of its size, of a sum in pairs with log2(n) independent roundings. In units of
    # the deviation that is as many times larger as the mean is. Times 4 for sums in a less fortunate order.
    scale = 1 + (rows.double().mean(dim=0) / rows.double().std(dim=0)).abs()
    allowed = 4 * EPS * math.sqrt(math.log2(5000)) * scale
    allowed[2] = 0
    assert (found.mean(dim=0).abs() <= allowed).all()
    expected = torch.ones(6)
    expected[2] = 0
    # A deviation is wrong by the mean's error, squared, and by an eps for the square, the sum and the root.
    assert ((found.std(dim=0, correction=0) - expected).abs() <= allowed.square() + 10 * EPS).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rows_are_summed_in_single(dtype: torch.dtype) -> None:
    """Their sum is infinite in float16, and wrong by a deviation or more in bfloat16."""
    rows = (100 + torch.randn(5000, 6)).to(dtype)
    assert not rows.sum(dim=0).isfinite().all() or dtype == torch.bfloat16
    found, exact = Standardizer.fit(rows), Standardizer.fit(rows.double())
    # As above: of a mean of 100 deviations, and of a deviation.
    allowed = 4 * EPS * math.sqrt(math.log2(5000))
    torch.testing.assert_close(found.mean.double(), exact.mean, rtol=allowed, atol=0)
    torch.testing.assert_close(found.scale.double(), exact.scale, rtol=(100 * allowed) ** 2 + 10 * EPS, atol=0)


def test_a_probe_of_half_precision_features_is_not_blind() -> None:
    labels = torch.arange(4000) % 3
    rows = (100 + 0.5 * torch.randn(4000, 8) + 2 * torch.nn.functional.one_hot(labels, 8)).half()
    assert linear(rows[:3000], labels[:3000], rows[3000:], labels[3000:])["top1"] > 90


def test_half_precision_becomes_single() -> None:
    rows = torch.randn(50, 3).half()
    assert Standardizer.fit(rows)(rows).dtype == Standardizer.identity(rows)(rows).dtype == torch.float32


def test_identity_changes_nothing() -> None:
    rows = torch.randn(50, 3)
    assert torch.equal(Standardizer.identity(rows)(rows), rows)
