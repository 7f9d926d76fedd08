"""Few images in the reports of toy runs: a page of all their images takes a third of the time of such a run."""

import pytest

FEW = 24


@pytest.fixture(autouse=True)
def small_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the folders and files that import it: reports embed and show 24 images where they would 384."""
    monkeypatch.setattr("coterie.reporting.run_report.FEWEST_SAMPLED", FEW)
