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
    label_matrix,
    labels,
    random_positions,
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


@pytest.mark.parametrize(
    ("count", "total"), [(0, 0), (0, 10), (1, 1), (3, 10), (5, 10), (7, 10), (20, 10), (1000, 10**12)]
)
def test_random_positions_are_distinct_sorted_and_always_the_same(count: int, total: int):
    drawn = random_positions(count, total).tolist()
    assert len(drawn) == min(count, total)
    assert drawn == sorted(set(drawn))
    assert all(0 <= position < total for position in drawn)
    assert drawn == random_positions(count, total).tolist()


def test_the_drawn_positions_are_the_same_on_every_machine():
    assert random_positions(4, 100).tolist() == [2, 17, 22, 74]
    assert random_positions(4, 100, stream=1).tolist() == [15, 35, 45, 48]


def test_every_position_is_equally_likely():
    counts = np.zeros(40)
    for stream in range(4000):
        counts[random_positions(12, 40, stream)] += 1
    assert abs(counts / 4000 - 0.3).max() < 0.04  # 5.5 standard deviations


@pytest.mark.parametrize("period", [2, 3, 5, 6, 7, 10, 18])
@pytest.mark.parametrize("count", [100, 600, 1500])
def test_a_sample_of_interleaved_classes_has_a_fair_share_of_each(period: int, count: int):
    kinds = sample_indices(count, plain(1800)) % period
    shares = np.bincount(kinds, minlength=period) / count
    deviation = (1 / period * (1 - 1 / period) / count) ** 0.5
    assert abs(shares - 1 / period).max() < 4 * deviation


def test_a_sample_of_all_images_is_all_of_them():
    assert sample_indices(200, plain(100)).tolist() == list(range(100))
    assert sample_indices(10**6, Sharded(0, 3, 5)).tolist() == list(range(5))


def shards_and_rows(layout: ShardLayout, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    shards = np.searchsorted(layout.starts, images, side="right") - 1
    return shards, images - layout.starts[shards]


def test_a_sample_of_remote_images_is_from_random_shards_and_random_rows_of_these():
    source = Sharded(*np.cumsum([0, *[40, 0, 60, 120] * 20]).tolist())
    shards, rows = shards_and_rows(source.shard_layout, sample_indices(320, source))
    several, counts = np.unique(shards, return_counts=True)
    assert counts.tolist() == [20] * SAMPLED_SHARDS
    assert set((several % 4).tolist()) == {0, 2, 3}  # empty shards are not drawn
    assert np.bincount(several % 4)[3] > np.bincount(several % 4)[0]  # longer ones are likelier
    assert len(set(np.diff(several).tolist())) > 3  # not every n-th
    assert rows.max() > 100
    assert 0.4 < (rows % 2).mean() < 0.6
    few, _ = shards_and_rows(source.shard_layout, sample_indices(3, source))
    assert len(set(few.tolist())) == 3


def test_of_few_remote_shards_every_image_is_equally_likely():
    source = Sharded(*range(0, 1600, 100))
    shards, rows = shards_and_rows(source.shard_layout, sample_indices(300, source))
    assert set(shards.tolist()) == set(range(15))
    assert abs(rows.mean() - 49.5) < 7


def test_one_random_block_of_a_remote_shard_is_read_if_that_is_enough():
    source = Sharded(*range(0, 4001, 100))
    blocks = np.arange(0, 4000, 20)
    source.shard_layout = source.shard_layout._replace(blocks=blocks)
    both = Concatenated([plain(7), source])  # a layout of several sources
    for offset, part in ((0, source), (7, both)):
        found = sample_indices(160, part) - offset
        found = found[found >= 0]
        shards, rows = shards_and_rows(source.shard_layout, found)
        several = {shard: set((rows[shards == shard] // 20).tolist()) for shard in set(shards.tolist())}
        assert all(len(each) == 1 for each in several.values())
        assert len(set.union(*several.values())) > 2  # not always the first
        assert len(several) == SAMPLED_SHARDS
    shards, rows = shards_and_rows(source.shard_layout, sample_indices(1000, source))  # a block of each is not enough
    assert len(set(shards.tolist())) == SAMPLED_SHARDS
    assert len(set((rows // 20).tolist())) == 5


def test_only_the_drawn_shards_of_a_store_are_read(tmp_path: Path, monkeypatch):
    pytest.importorskip("fsspec", reason="fsspec is not installed: pip install 'coterie[remote]'")
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path / "cache"))
    for number in range(2 * SAMPLED_SHARDS):
        (tmp_path / f"{number:02d}.tar").write_bytes(tar(100 * number, [4, 0, 3, 12][number % 4]))
    source = open_source(f"file://{tmp_path}/*.tar")
    found = sample_indices(60, source).tolist()
    assert 40 < len(found) <= 60  # some shards have fewer than 4 images
    assert len({source.name(image)[:3] for image in found}) <= SAMPLED_SHARDS
