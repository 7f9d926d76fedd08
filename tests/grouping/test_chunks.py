import pytest
import torch

from coterie.grouping import chunks
from coterie.grouping.chunks import chunk_slices, chunked

CPU, GPU = torch.device("cpu"), torch.device("cuda")  # only named: nothing is computed there


@pytest.mark.parametrize(("count", "against"), [(0, 5), (1, 5), (7, 1), (1000, 30), (1001, 30), (3, 10**9), (5, 0)])
@pytest.mark.parametrize("device", [CPU, GPU])
def test_slices_cover_all_rows_in_order_within_the_limit(
    count: int, against: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CPU_ELEMENTS", 100)
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 1600)
    slices = chunk_slices(count, against, device)
    assert [row for each in slices for row in range(count)[each]] == list(range(count))
    most = max(1, (100 if device == CPU else 1600) // max(1, against))
    assert all(each.stop - each.start == most for each in slices[:-1])
    assert all(0 < each.stop - each.start <= most and each.stop <= count for each in slices)


def test_parts_are_views_of_all_rows_within_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 100)
    rows = torch.arange(24.0).view(12, 2)
    parts = chunked(rows, against=30)
    assert [len(part) for part in parts] == [3, 3, 3, 3]
    assert torch.equal(torch.cat(parts), rows)
    assert parts[1].data_ptr() == rows[3:].data_ptr()
    assert [len(part) for part in chunked(rows, against=1000)] == [1] * 12


def test_a_chunk_is_smaller_on_a_cpu() -> None:
    """What a CPU's caches hold (8 MB in float32) and what any device can spare (128 MB)."""
    assert len(chunk_slices(2_000_000, 1, CPU)) == 1
    assert len(chunk_slices(2_000_001, 1, CPU)) == 2
    assert len(chunk_slices(32_000_000, 1, GPU)) == 1
    assert len(chunk_slices(32_000_001, 1, GPU)) == 2
