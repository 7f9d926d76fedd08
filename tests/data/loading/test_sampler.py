import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.data.loading import sampler as sampler_module
from coterie.data.loading.sampler import WINDOW_BLOCKS, WINDOW_IMAGES, BlockShuffleSampler, epoch_order
from coterie.data.sources.shard_layout import ShardLayout


def sampler(*lengths: int, seed: int = 3, remote: bool = True) -> BlockShuffleSampler:
    return BlockShuffleSampler(seed, ShardLayout(np.cumsum([0, *lengths]), remote))


def whole(given: BlockShuffleSampler, epoch: int) -> np.ndarray:
    return given.indices(epoch, 0, given.count)


@pytest.fixture
def small_windows(monkeypatch):
    """Windows of few blocks and images, so that an epoch of a hundred images has many."""
    monkeypatch.setattr(sampler_module, "WINDOW_BLOCKS", 2)
    monkeypatch.setattr(sampler_module, "WINDOW_IMAGES", 10)


@pytest.mark.parametrize("lengths", [(20,), (5, 0, 15), (1,) * 20])
def test_local_images_are_permuted_as_in_earlier_versions(lengths):
    """Exactly these numbers: ranges of earlier versions had them, and must be resumable."""
    assert epoch_order(4, 1, 8).tolist() == [6, 1, 2, 4, 3, 5, 0, 7]
    assert epoch_order(2**64 - 1, -1, 8).tolist() == [5, 4, 7, 2, 6, 1, 3, 0]
    local = sampler(*lengths, remote=False)
    assert not local.in_blocks
    for epoch in (-1, 0, 5):
        assert np.array_equal(whole(local, epoch), epoch_order(3, epoch, 20))
        assert np.array_equal(local.indices(epoch, 4, 9), epoch_order(3, epoch, 20)[4:9])


def test_more_images_than_are_permuted_at_once_are_shuffled_in_blocks(monkeypatch):
    monkeypatch.setattr(sampler_module, "MAX_PERMUTED", 19)
    assert sampler(20, remote=False).in_blocks
    monkeypatch.setattr(sampler_module, "MAX_PERMUTED", 20)
    assert not sampler(20, remote=False).in_blocks


@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=40).filter(any),
    seed=st.integers(0, 2**62),
    epoch=st.integers(-1, 3),
    data=st.data(),
)
def test_each_image_once_and_any_slice_without_state(lengths, seed, epoch, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler_module, "WINDOW_BLOCKS", 2)
        patch.setattr(sampler_module, "WINDOW_IMAGES", 8)
        one = sampler(*lengths, seed=seed)
        images = whole(one, epoch)
        assert np.array_equal(np.sort(images), np.arange(sum(lengths)))
        first = data.draw(st.integers(0, one.count))
        last = data.draw(st.integers(first, one.count))
        fresh = sampler(*lengths, seed=seed)  # a run that is resumed there
        assert np.array_equal(fresh.indices(epoch, first, last), images[first:last])
        size = data.draw(st.integers(1, one.count))
        parts = [one.indices(epoch, start, min(start + size, one.count)) for start in range(0, one.count, size)]
        assert np.array_equal(np.concatenate(parts), images)


def test_processes_divide_one_order(small_windows):
    one = whole(sampler(*[10] * 12), 0)
    for world in (2, 3, 4):
        ranks = [sampler(*[10] * 12) for _ in range(world)]
        steps = [[each.indices(0, s * 12 + r * 12 // world, s * 12 + (r + 1) * 12 // world) for r, each in enumerate(ranks)]
                 for s in range(10)]  # fmt: skip
        assert np.array_equal(np.concatenate([part for step in steps for part in step]), one)


def test_each_epoch_and_seed_has_its_own_order(small_windows):
    lengths = [10] * 12
    orders = [whole(sampler(*lengths, seed=seed), epoch) for seed in (0, 1, 2**61) for epoch in (-1, 0, 1, 2)]
    for number, one in enumerate(orders):
        assert all((one != other).any() for other in orders[:number])
    first = sampler(*lengths)
    assert set(first.ranges(0, 0)) != set(first.ranges(1, 0))  # other blocks are mixed, too


def test_a_window_holds_only_its_blocks(small_windows):
    one = sampler(*[10] * 12)
    assert one.windows == 6
    images = whole(one, 0)
    for window in range(one.windows):
        ranges = one.ranges(0, window)
        assert len(ranges) == 2
        expected = np.concatenate([np.arange(*each) for each in ranges])
        here = images[window * 20 : (window + 1) * 20]
        assert np.array_equal(np.sort(here), np.sort(expected))
        assert len({int(image) // 10 for image in here[:10]}) == 2  # mixed, not one after the other
        assert [one.window_at(0, position) for position in (window * 20, window * 20 + 19)] == [window, window]
    for position in (-1, 120):
        with pytest.raises(IndexError):
            one.window_at(0, position)


def test_each_window_of_each_epoch_has_its_own_permutation(small_windows):
    one = sampler(*[10] * 12)
    permutations = []
    for epoch, window in [(0, 0), (0, 1), (1, 0), (2, 5)]:
        unshuffled = np.concatenate([np.arange(*run) for run in one.ranges(epoch, window)]).tolist()
        permutations.append([unshuffled.index(image) for image in one.indices(epoch, window * 20, window * 20 + 20)])
    assert len(set(map(tuple, permutations))) == 4
    assert all(permutation != list(range(20)) for permutation in permutations)


def test_a_large_shard_is_split_so_that_a_window_stays_small():
    one = sampler(10 * WINDOW_IMAGES + 7, 5, 0, 3 * WINDOW_IMAGES)
    ranges = [run for window in range(one.windows) for run in one.ranges(0, window)]
    assert max(stop - start for start, stop in ranges) <= WINDOW_IMAGES
    assert sum(stop - start for start, stop in ranges) == one.count
    assert all(stop > start for start, stop in ranges)
    assert (0, 10 * WINDOW_IMAGES + 7) not in ranges
    assert len(ranges) == 11 + 1 + 3


def test_a_billion_images_need_the_memory_of_one_window():
    shards = 100_000
    one = sampler(*[10_000] * shards, remote=False)
    assert one.count == 10**9
    batch = one.indices(7, 987_654_321, 987_654_321 + 256)
    assert len(set(batch.tolist())) == 256
    assert len({int(image) // 10_000 for image in batch}) == WINDOW_BLOCKS
    window = one.window_at(7, 987_654_321)
    assert sum(stop - start for start, stop in one.ranges(7, window)) == 16 * 10_000


def test_a_batch_draws_evenly_from_the_blocks_of_its_window():
    one = sampler(*[5000] * 64)
    images = one.indices(0, 0, 16 * 5000) // 5000
    counts = np.array(
        [
            np.bincount(batch, minlength=64)[np.unique(images)]
            for batch in images[: 80_000 // 256 * 256].reshape(-1, 256)
        ]
    )
    assert counts.mean() == pytest.approx(16)
    assert counts.var() == pytest.approx(256 * (1 / 16) * (15 / 16), rel=0.1)  # as for independent draws
