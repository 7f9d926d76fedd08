import pytest
import torch

from coterie.errors import BadConfig
from coterie.grouping.memory_queue import Memory, MemoryConfig, Refresh
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


def test_a_memory_shorter_than_a_batch_is_refused_with_a_remedy() -> None:
    with pytest.raises(BadConfig, match="set it to 16 or more"):
        Memory(8, 1, 2, batch_size=16)


def test_the_newest_row_of_each_image_is_found_after_a_wrap() -> None:
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


def test_defaults_are_the_published_values() -> None:
    """methods.md, 1.5 (SwAV's queue: 3840 rows from epoch 15) and 2.6 and 3.6 (a refresh at the start of every epoch)."""
    assert MemoryConfig() == MemoryConfig(length=3840, start_epoch=15, rows_from="student")
    assert Refresh() == Refresh(every_epochs=1, every_steps=0, labels=False, reset_teacher=False)


def due(rule: Refresh, steps: int = 40) -> list[int]:
    return [step for step in range(steps) if rule.due(at(step))]


def test_a_refresh_is_due_by_epochs_or_by_steps_and_at_the_start_of_the_run() -> None:
    assert due(Refresh()) == [0, 10, 20, 30]
    assert due(Refresh(every_epochs=3)) == [0, 30]
    assert due(Refresh(every_steps=7)) == [0, 7, 14, 21, 28, 35]
    assert due(Refresh(every_epochs=3, every_steps=20)) == [0, 20], "steps replace epochs"


def test_rows_at_places_are_those_of_one_process() -> None:
    memory = Memory(8, slots=2, width=3, batch_size=4)
    pushed(memory, 2, 4)
    assert memory.at(1, torch.tensor([5, 0]))[:, 0].tolist() == [1005.0, 1000.0]
    assert memory.written == 8
    assert torch.equal(memory.in_order(memory.index), torch.arange(8))


def test_rows_keep_the_precision_of_the_memory() -> None:
    memory = Memory(4, 1, 2, batch_size=4)
    memory.push(torch.ones(1, 4, 2, dtype=torch.bfloat16), torch.arange(4), at(0))
    assert memory.rows.dtype == torch.float32
    assert memory.double().rows.dtype == torch.float64


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Refresh, {"every_epochs": 0}, r"refresh\.every_epochs is 0: it must be at least 1 \(for no refresh, leave"),
        (Refresh, {"every_epochs": 0, "every_steps": 5}, r"refresh\.every_epochs is 0"),
        (Refresh, {"every_steps": -1}, r"refresh\.every_steps is -1: it cannot be negative \(0: count epochs\)"),
        (MemoryConfig, {"length": 0}, r"memory\.length is 0: it must be at least 1 \(for no memory, leave it out\)"),
        (MemoryConfig, {"start_epoch": -1}, r"memory\.start_epoch is -1: it cannot be negative"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(kind: type, settings: dict, message: str) -> None:
    with pytest.raises(BadConfig, match=f"^{message}") as caught:
        kind(**settings)
    assert "\n" not in str(caught.value)
