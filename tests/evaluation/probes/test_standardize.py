import pytest
import torch

import coterie.evaluation.probes.standardize
from coterie.evaluation.probes.standardize import Standardizer


@pytest.mark.parametrize("elements", [2_000_000, 600])
def test_standard_rows_have_mean_zero_and_deviation_one(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coterie.evaluation.probes.standardize, "CPU_ELEMENTS", elements)
    rows = torch.randn(5000, 6) * torch.logspace(-3, 3, 6) + 5
    rows[:, 2] = 0.1  # the same in every row, and no power of two
    found = Standardizer.fit(rows)(rows)
    torch.testing.assert_close(found.mean(dim=0), torch.zeros(6), atol=1e-3, rtol=0)
    expected = torch.ones(6)
    expected[2] = 0
    torch.testing.assert_close(found.std(dim=0, correction=0), expected, atol=1e-4, rtol=0)


def test_half_precision_becomes_single() -> None:
    rows = torch.randn(50, 3).half()
    assert Standardizer.fit(rows)(rows).dtype == Standardizer.identity(rows)(rows).dtype == torch.float32


def test_none_changes_nothing() -> None:
    rows = torch.randn(50, 3)
    assert torch.equal(Standardizer.identity(rows)(rows), rows)
