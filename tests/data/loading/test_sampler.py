import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.data.loading import sampler as order_module
from coterie.data.loading.sampler import WINDOW_BLOCKS, WINDOW_IMAGES, BlockShuffleSampler, epoch_order
from coterie.data.sources.arrays import Arrays
from coterie.data.sources.blocks import ShardLayout
from coterie.data.sources.source import Concatenated, blocks


def order(*lengths: int, seed: int = 3, fetched: bool = True) -> BlockShuffleSampler:
    return BlockShuffleSampler(seed, ShardLayout(np.cumsum([0, *lengths]), fetched))


def whole(given: BlockShuffleSampler, epoch: int) -> np.ndarray:
    return given.indices(epoch, 0, given.count)


@pytest.fixture
def small_windows(monkeypatch):
    """Windows of few blocks and images, so that an epoch of a hundred images has many."""
    monkeypatch.setattr(order_module, "WINDOW_BLOCKS", 2)
    monkeypatch.setattr(order_module, "WINDOW_IMAGES", 10)


@pytest.mark.parametrize("lengths", [(20,), (5, 0, 15), (1,) * 20])
def test_images_at_hand_are_permuted_as_ever(lengths):
    """These very numbers: every run before had them, and goes on with them."""
    assert epoch_order(4, 1, 8).tolist() == [6, 1, 2, 4, 3, 5, 0, 7]
    assert epoch_order(2**64 - 1, -1, 8).tolist() == [5, 4, 7, 2, 6, 1, 3, 0]
    near = order(*lengths, fetched=False)
    assert not near.in_blocks
    for epoch in (-1, 0, 5):
        assert np.array_equal(whole(near, epoch), epoch_order(3, epoch, 20))
        assert np.array_equal(near.indices(epoch, 4, 9), epoch_order(3, epoch, 20)[4:9])


def test_more_images_than_are_permuted_as_a_whole_go_by_blocks(monkeypatch):
    monkeypatch.setattr(order_module, "WHOLE", 19)
    assert order(20, fetched=False).in_blocks
    monkeypatch.setattr(order_module, "WHOLE", 20)
    assert not order(20, fetched=False).in_blocks


@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=40).filter(any),
    seed=st.integers(0, 2**62),
    epoch=st.integers(-1, 3),
    data=st.data(),
)
def test_each_image_once_and_any_slice_from_nothing(lengths, seed, epoch, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order_module, "WINDOW_BLOCKS", 2)
        patch.setattr(order_module, "WINDOW_IMAGES", 8)
        one = order(*lengths, seed=seed)
        images = whole(one, epoch)
        assert np.array_equal(np.sort(images), np.arange(sum(lengths)))
        first = data.draw(st.integers(0, one.count))
        last = data.draw(st.integers(first, one.count))
        fresh = order(*lengths, seed=seed)  # a run that goes on there
        assert np.array_equal(fresh.indices(epoch, first, last), images[first:last])
        size = data.draw(st.integers(1, one.count))
        parts = [one.indices(epoch, start, min(start + size, one.count)) for start in range(0, one.count, size)]
        assert np.array_equal(np.concatenate(parts), images)


def test_the_processes_of_a_run_share_out_one_order(small_windows):
    one = whole(order(*[10] * 12), 0)
    for world in (2, 3, 4):
        ranks = [order(*[10] * 12) for _ in range(world)]
        steps = [[each.indices(0, s * 12 + r * 12 // world, s * 12 + (r + 1) * 12 // world) for r, each in enumerate(ranks)]
                 for s in range(10)]  # fmt: skip
        assert np.array_equal(np.concatenate([part for step in steps for part in step]), one)


def test_epochs_and_seeds_have_orders_of_their_own(small_windows):
    lengths = [10] * 12
    orders = [whole(order(*lengths, seed=seed), epoch) for seed in (0, 1, 2**61) for epoch in (-1, 0, 1, 2)]
    for number, one in enumerate(orders):
        assert all((one != other).any() for other in orders[:number])
    first = order(*lengths)
    assert set(first.ranges(0, 0)) != set(first.ranges(1, 0))  # other blocks meet, too


def test_only_the_blocks_of_a_window_are_in_use(small_windows):
    one = order(*[10] * 12)
    assert one.windows == 6
    images = whole(one, 0)
    for window in range(one.windows):
        runs = one.ranges(0, window)
        assert len(runs) == 2
        expected = np.concatenate([np.arange(*run) for run in runs])
        here = images[window * 20 : (window + 1) * 20]
        assert np.array_equal(np.sort(here), np.sort(expected))
        assert len({int(image) // 10 for image in here[:10]}) == 2  # mixed, not one after the other
        assert [one.window_at(0, position) for position in (window * 20, window * 20 + 19)] == [window, window]
    for position in (-1, 120):
        with pytest.raises(IndexError):
            one.window_at(0, position)


def test_each_window_of_each_epoch_is_permuted_in_a_way_of_its_own(small_windows):
    one = order(*[10] * 12)
    ways = []
    for epoch, window in [(0, 0), (0, 1), (1, 0), (2, 5)]:
        lying = np.concatenate([np.arange(*run) for run in one.ranges(epoch, window)]).tolist()
        ways.append([lying.index(image) for image in one.indices(epoch, window * 20, window * 20 + 20)])
    assert len(set(map(tuple, ways))) == 4
    assert all(way != list(range(20)) for way in ways)


def test_a_large_block_is_cut_so_that_a_window_stays_small():
    one = order(10 * WINDOW_IMAGES + 7, 5, 0, 3 * WINDOW_IMAGES)
    runs = [run for window in range(one.windows) for run in one.ranges(0, window)]
    assert max(stop - start for start, stop in runs) <= WINDOW_IMAGES
    assert sum(stop - start for start, stop in runs) == one.count
    assert all(stop > start for start, stop in runs)
    assert (0, 10 * WINDOW_IMAGES + 7) not in runs
    assert len(runs) == 11 + 1 + 3


def test_a_billion_images_need_the_memory_of_a_window():
    shards = 100_000
    one = order(*[10_000] * shards, fetched=False)
    assert one.count == 10**9
    batch = one.indices(7, 987_654_321, 987_654_321 + 256)
    assert len(set(batch.tolist())) == 256
    assert len({int(image) // 10_000 for image in batch}) == WINDOW_BLOCKS
    window = one.window_at(7, 987_654_321)
    assert sum(stop - start for start, stop in one.ranges(7, window)) == 16 * 10_000


def test_a_batch_draws_evenly_from_the_blocks_of_its_window():
    one = order(*[5000] * 64)
    images = one.indices(0, 0, 16 * 5000) // 5000
    counts = np.array(
        [
            np.bincount(batch, minlength=64)[np.unique(images)]
            for batch in images[: 80_000 // 256 * 256].reshape(-1, 256)
        ]
    )
    assert counts.mean() == pytest.approx(16)
    assert counts.var() == pytest.approx(256 * (1 / 16) * (15 / 16), rel=0.1)  # as draws at random have it


def test_blocks_of_sources_put_together():
    class Sharded(Arrays):
        def __init__(self, starts: list[int]) -> None:
            super().__init__(np.zeros((starts[-1], 2, 2, 3), np.uint8))
            self.blocks = ShardLayout(np.array(starts), True)

    plain = Arrays(np.zeros((4, 2, 2, 3), np.uint8))
    assert blocks(plain).starts.tolist() == [0, 4]
    assert not blocks(Concatenated([plain, plain])).fetched
    both = blocks(Concatenated([plain, Sharded([0, 3, 5]), Sharded([0, 2]), plain]))
    assert (both.starts.tolist(), both.fetched) == ([0, 4, 7, 9, 11, 15], True)
