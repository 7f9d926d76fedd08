import pytest
import torch

from coterie.errors import BadConfig
from coterie.grouping.memory_queue import Memory
from coterie.types import Progress


def at(step: int) -> Progress:
    return Progress(step, 10, 100)


def pushed(memory: Memory, batches: int, size: int, first_step: int = 0) -> None:
    for number in range(batches):
        index = torch.arange(number * size, (number + 1) * size)
        rows = index.float()[None, :, None].expand(memory.rows.shape[0], size, memory.rows.shape[2])
        memory.push(rows + torch.arange(memory.rows.shape[0])[:, None, None] * 1000, index, at(first_step + number))


def test_new_rows_replace_the_oldest_and_full_counts_whole_rounds() -> None:
    memory = Memory(10, slots=2, width=3, batch_size=4)
    assert memory.length == 8
    pushed(memory, 1, 4)
    assert not memory.full
    pushed(memory, 3, 4)
    assert memory.full
    assert memory.rows[0, :, 0].tolist() == [*range(4, 8), *range(8, 12)]
    assert memory.rows[1, :, 2].tolist() == [*range(1004, 1012)]


def test_nothing_is_kept_before_the_start() -> None:
    memory = Memory(4, 1, 2, batch_size=4, start_epoch=2)
    pushed(memory, 20, 4)
    assert memory.pushed == 0
    pushed(memory, 1, 4, first_step=20)
    assert memory.full


def test_state_round_trip_keeps_the_order(tmp_path) -> None:
    memory = Memory(8, 1, 2, batch_size=4)
    pushed(memory, 3, 4)
    torch.save(memory.state_dict(), tmp_path / "memory.pt")
    other = Memory(8, 1, 2, batch_size=4)
    other.load_state_dict(torch.load(tmp_path / "memory.pt", weights_only=True))
    assert torch.equal(other.rows, memory.rows)
    assert other.pushed == memory.pushed
    assert torch.equal(other.index, memory.index)


def test_shorter_than_a_batch_is_refused_with_the_mend() -> None:
    with pytest.raises(BadConfig, match="set it to 16 or more"):
        Memory(8, 1, 2, batch_size=16)


def test_the_newest_row_of_each_image_is_told_after_a_wrap() -> None:
    memory = Memory(8, 1, 2, batch_size=4)
    for number, index in enumerate(([0, 1, 2, 3], [4, 5, 6, 7], [2, 3, 8, 9], [9, 4, 0, 1])):
        memory.push(torch.zeros(1, 4, 2), torch.tensor(index), at(number))
    newest = memory.newest(memory.index)
    assert sorted(memory.index[newest].tolist()) == [0, 1, 2, 3, 4, 8, 9]  # image 9 is there twice
    assert newest[4]  # its second row
    assert not newest[3]
    one = Memory(8, 1, 2, batch_size=4)
    one.push(torch.zeros(1, 4, 2), torch.tensor([3, 1, 3, 0]), at(0))
    assert one.newest(one.index[:4]).tolist() == [False, True, True, True]
