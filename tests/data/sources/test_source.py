from pathlib import Path

import numpy as np
import pytest

from coterie.data.sources.arrays import Arrays
from coterie.data.sources.labels import LabelMatrix
from coterie.data.sources.open import open_source
from coterie.data.sources.shard_layout import ShardLayout
from coterie.data.sources.source import (
    SAMPLED_SHARDS,
    Concatenated,
    ImageSource,
    Prefetchable,
    Subset,
    evenly_spaced,
    label_matrix,
    labels,
    sample_indices,
    shard_layout,
)
from tests.data.store import tar


class Own:
    """A source of one's own, with three images."""

    classes = ("even", "odd")

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> bytes:
        return b""

    def name(self, index: int) -> str:
        return str(index)

    def label(self, index: int) -> int | None:
        return None if index == 2 else index % 2


class Sharded(Arrays):
    """Images in remote shards, which keeps a list of what was prefetched."""

    def __init__(self, *starts: int) -> None:
        super().__init__(np.zeros((starts[-1], 2, 2, 3), np.uint8))
        self.shard_layout = ShardLayout(np.array(starts), True)
        self.prefetched: list[tuple[int, int]] = []

    def prefetch(self, start: int, stop: int) -> None:
        self.prefetched.append((start, stop))


def plain(count: int) -> Arrays:
    return Arrays(np.zeros((count, 2, 2, 3), np.uint8))


def test_sources_of_ones_own_have_labels():
    assert isinstance(Own(), ImageSource)
    assert labels(Own()).tolist() == [0, 1, -1]
    assert labels(Concatenated([Own(), Own()])).tolist() == [0, 1, -1, 0, 1, -1]
    assert label_matrix(Own()).rows.tolist() == [[True, False], [False, True], [False, False]]
    assert labels(plain(2)).tolist() == [-1, -1]


def test_concatenated_sources_share_classes_by_name():
    first = Arrays(np.zeros((2, 2, 2, 3), np.uint8), labels=["dog", "cat"], names=["a", "b"])
    second = Arrays(np.ones((3, 2, 2, 3), np.uint8), labels=["bird", None, "cat"], names=["c", "d", "e"])
    both = Concatenated([first, second])
    assert (len(both), both.classes) == (5, ("cat", "dog", "bird"))
    assert [both.name(index) for index in range(5)] == list("abcde")
    assert labels(both).tolist() == [1, 0, 2, -1, 0]
    assert [both.label(index) for index in range(5)] == [1, 0, 2, None, 0]
    assert [both[index].max() for index in range(5)] == [0, 0, 1, 1, 1]
    for index in (-1, 5):
        with pytest.raises(IndexError):
            both[index]


def test_subsets_have_the_given_order_and_labels():
    source = Arrays(
        np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1), labels=["dog", "cat", "cat", None], names=list("abcd")
    )
    some = Subset(source, np.array([3, 0]))
    assert [some[index].item() for index in range(len(some))] == [3, 0]
    assert [some.name(index) for index in range(2)] == ["d", "a"]
    assert some.label(0) is None  # labels are given, or none
    assert label_matrix(some).rows.tolist() == [[False, False], [False, True]]
    own = Subset(source, np.array([3, 0]), np.array([1, -1]), ("x", "y"))
    assert (own.label(0), own.classes, labels(own).tolist()) == (1, ("x", "y"), [1, -1])
    assert label_matrix(own).rows.tolist() == [[False, True], [False, False]]


def test_a_label_matrix_of_its_own_takes_precedence():
    class Several(Own):
        label_matrix = LabelMatrix(np.ones((3, 2), bool), np.ones(3, bool), ("even", "odd"))

    assert label_matrix(Several()).rows.all()
    Several.label_matrix = None
    assert label_matrix(Several()).rows.sum() == 2


def test_layouts_are_concatenated():
    assert shard_layout(plain(4)).starts.tolist() == [0, 4]
    assert not shard_layout(Concatenated([plain(4), plain(4)])).remote
    both = shard_layout(Concatenated([plain(4), Sharded(0, 3, 5), Sharded(0, 2), plain(4)]))
    assert (both.starts.tolist(), both.remote) == ([0, 4, 7, 9, 11, 15], True)


def test_each_source_prefetches_its_part_of_a_range():
    first, second = Sharded(0, 3, 5), Sharded(0, 2)
    both = Concatenated([plain(4), first, second, plain(4)])
    assert isinstance(both, Prefetchable)
    for images in ((0, 4), (2, 6), (8, 10), (9, 11), (0, 15)):
        both.prefetch(*images)
    assert first.prefetched == [(0, 2), (4, 5), (0, 5)]
    assert second.prefetched == [(0, 1), (0, 2), (0, 2)]


def test_evenly_spaced_positions():
    assert evenly_spaced(4, 100).tolist() == [0, 25, 50, 75]
    assert evenly_spaced(3, 10).tolist() == [0, 3, 6]
    assert evenly_spaced(0, 10).tolist() == []


def test_a_sample_of_local_images_is_evenly_spaced():
    assert sample_indices(4, plain(100)).tolist() == [0, 25, 50, 75]
    assert sample_indices(200, plain(100)).tolist() == list(range(100))


def test_a_sample_of_remote_images_is_the_first_of_some_shards(tmp_path: Path, monkeypatch):
    pytest.importorskip("fsspec", reason="fsspec is not installed: pip install 'coterie[remote]'")
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path / "cache"))
    for number in range(2 * SAMPLED_SHARDS):
        (tmp_path / f"{number:02d}.tar").write_bytes(tar(100 * number, [4, 0, 3, 12][number % 4]))
    source = open_source(f"file://{tmp_path}/*.tar")
    first = [int(start) for start in shard_layout(source).starts]
    found = sample_indices(5 * SAMPLED_SHARDS, source).tolist()
    filled = [shard for shard in range(32) if shard % 4 != 1]
    assert len(filled) == 24
    chosen = {source.name(image)[:3] for image in found}
    assert len(chosen) == SAMPLED_SHARDS
    assert found == sorted(set(found))
    assert all(image - first[int(np.searchsorted(first, image, "right")) - 1] < 5 for image in found)
    assert sample_indices(3, source).tolist() == [first[shard] for shard in (0, filled[8], filled[16])]
    assert sample_indices(10**6, source).tolist() == list(range(len(source)))
