"""Two processes that find each other as under torchrun, by its environment; and one alone."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from coterie.distributed.processes import (
    Poll,
    all_gather_dict,
    broadcast_object,
    local_device,
    process_group,
    rank,
    world_size,
    wrap_ddp,
)
from coterie.errors import UserError
from tests.forkserver import start_processes

CPU = torch.device("cpu")
POLLED = ((3, 1), (0, 5), (2, 2), (0, 0))
"""What each of the two processes says at each call."""


def gradient_of(student: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    called = wrap_ddp(student)  # it has to live until the gradients are averaged
    called(rows).mean().backward()
    assert student.weight.grad is not None
    return student.weight.grad


def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2, dtype=torch.float64)


def rows() -> torch.Tensor:
    return torch.arange(12, dtype=torch.float64).view(4, 3)


def _work(number: int, folder: str, port: int) -> None:
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    assert (world_size(), rank()) == (1, 0), "nothing is connected yet"
    with process_group(CPU):
        found: dict[str, Any] = {"who": [world_size(), rank()]}
        with process_group(CPU):  # they are connected already
            found["value"] = broadcast_object({"of": f"process {number}"})
        found["entries"] = all_gather_dict({number: "own", 10 + number: "another"})
        poll = Poll()
        found["polled"] = [poll(call[number]) for call in POLLED]
        found["gradient"] = gradient_of(layer(), rows().chunk(2)[number])
    found["afterwards"] = [world_size(), rank()]
    torch.save(found, f"{folder}/{number}.pt")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start_processes(_work, (str(folder), port), nprocs=2)
    return [torch.load(folder / f"{number}.pt", weights_only=True) for number in range(2)]


def test_the_processes_know_their_number_as_long_as_they_are_connected(found: list[dict[str, Any]]) -> None:
    assert [each["who"] for each in found] == [[2, 0], [2, 1]]
    assert [each["afterwards"] for each in found] == [[1, 0], [1, 0]]


def test_all_have_the_object_of_the_first_and_the_entries_of_all(found: list[dict[str, Any]]) -> None:
    for each in found:
        assert each["value"] == {"of": "process 0"}
        assert each["entries"] == {0: "own", 1: "own", 10: "another", 11: "another"}


def test_a_poll_returns_the_largest_number_one_call_later(found: list[dict[str, Any]]) -> None:
    assert [each["polled"] for each in found] == [[0, 3, 5, 2]] * 2


def test_gradients_are_averaged(found: list[dict[str, Any]]) -> None:
    expected = gradient_of(layer(), rows())
    for each in found:
        torch.testing.assert_close(each["gradient"], expected)
    assert not torch.allclose(gradient_of(layer(), rows()[:2]), expected)


def test_one_process_is_its_own_first_and_only_one() -> None:
    with process_group(CPU):
        assert (world_size(), rank()) == (1, 0)
    student, value = layer(), object()
    assert wrap_ddp(student) is student
    assert broadcast_object(value) is value
    assert all_gather_dict({1: "bad"}) == {1: "bad"}
    poll = Poll()
    assert [poll(number) for number in (4, 0, 7)] == [4, 0, 7], "alone nothing is late"


def test_processes_that_cannot_connect_are_told_to_use_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with (
        pytest.raises(
            UserError, match=r"the processes cannot connect to each other \(.*\): start them with torchrun"
        ) as e,
        process_group(CPU),
    ):
        pass
    assert "\n" not in str(e.value)


def test_a_gpu_without_a_number_is_that_of_the_local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert local_device(torch.device("cuda")) == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert local_device(torch.device("cuda")) == torch.device("cuda", 3)
    assert local_device(torch.device("cuda", 1)) == torch.device("cuda", 1)
    assert local_device(CPU) == CPU
