"""Four real processes; the oracle is one process that holds what all of them hold."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from coterie.distributed.collectives import (
    all_gather,
    all_reduce_logsumexp,
    all_reduce_max,
    all_reduce_sum,
    local_chunk,
    subgroup,
)
from coterie.errors import UserError
from tests.distributed.running import one_of
from tests.forkserver import start_processes

WORLD = 4


def values() -> Tensor:
    """What each process has: ``[W, 2, 3]``."""
    return torch.randn(WORLD, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def weights(*shape: int) -> Tensor:
    """By what each process multiplies its results: its loss is the sum of the products."""
    return torch.randn(WORLD, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def refused(processes: int) -> str:
    try:
        subgroup(processes)
    except UserError as error:
        return str(error)
    return "not refused"


def _work(number: int, folder: str) -> None:
    with one_of(WORLD, number, folder):
        found: dict[str, Any] = {}
        mine = values()[number].requires_grad_()
        total = all_reduce_sum(mine)
        (total * weights(2, 3)[number]).sum().backward()
        found["sum"], found["gradient of the sum"], mine.grad = total.detach(), mine.grad, None
        gathered = all_gather(mine.T)  # it is not contiguous
        (gathered * weights(WORLD, 3, 2)[number]).sum().backward()
        found["gathered"], found["gradient of the gathered"], mine.grad = gathered.detach(), mine.grad, None
        largest, logsumexp = all_reduce_max(mine), all_reduce_logsumexp(mine * 5000)
        assert not largest.requires_grad
        assert not logsumexp.requires_grad
        found["max"], found["logsumexp"] = largest, logsumexp
        found["chunk"] = local_chunk(torch.arange(24.0).view(3, 8), dim=1)
        pair = subgroup(2)
        (all_reduce_sum(mine, pair) * weights(2, 3)[number]).sum().backward()
        found["sum of the pair"] = all_reduce_sum(mine.detach(), pair)
        found["gradient of the pair"] = mine.grad
        found["everybody"] = [subgroup(0) is None, subgroup(WORLD) is None, subgroup(WORLD + 1) is None]
        found["refused"] = refused(3)
        assert torch.equal(mine.detach(), values()[number]), "inputs are not overwritten"
        torch.save(found, f"{folder}/{number}.pt")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("collectives")
    start_processes(_work, (str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"{number}.pt", weights_only=True) for number in range(WORLD)]


def test_a_sum_and_its_gradient(found: list[dict[str, Any]]) -> None:
    for each in found:
        torch.testing.assert_close(each["sum"], values().sum(dim=0))
        torch.testing.assert_close(each["gradient of the sum"], weights(2, 3).sum(dim=0))


def test_gathered_values_are_in_the_order_of_the_processes_and_have_a_gradient(found: list[dict[str, Any]]) -> None:
    for number, each in enumerate(found):
        assert torch.equal(each["gathered"], values().transpose(1, 2))
        expected = weights(WORLD, 3, 2).sum(dim=0)[number].T
        torch.testing.assert_close(each["gradient of the gathered"], expected)


def test_a_maximum(found: list[dict[str, Any]]) -> None:
    assert all(torch.equal(each["max"], values().amax(dim=0)) for each in found)


def test_a_logsumexp_does_not_overflow(found: list[dict[str, Any]]) -> None:
    expected = (values() * 5000).logsumexp(dim=0)
    assert expected.abs().max() > 1000
    for each in found:
        torch.testing.assert_close(each["logsumexp"], expected)


def test_each_process_has_its_chunk(found: list[dict[str, Any]]) -> None:
    whole = torch.arange(24.0).view(3, 8)
    for number, each in enumerate(found):
        assert torch.equal(each["chunk"], whole[:, 2 * number : 2 * number + 2])


def test_neighbors_are_a_group(found: list[dict[str, Any]]) -> None:
    for number, each in enumerate(found):
        pair = slice(0, 2) if number < 2 else slice(2, 4)
        torch.testing.assert_close(each["sum of the pair"], values()[pair].sum(dim=0))
        torch.testing.assert_close(each["gradient of the pair"], weights(2, 3)[pair].sum(dim=0))
        assert each["everybody"] == [True, True, True]


def test_processes_that_cannot_be_divided_are_refused_in_one_line(found: list[dict[str, Any]]) -> None:
    for each in found:
        assert each["refused"].startswith(
            "batch_norm_processes is 3, but 4 processes cannot be divided into groups of that"
        )
        assert "set it to 0" in each["refused"]
        assert "\n" not in each["refused"]


def test_one_process_gets_back_what_it_gave() -> None:
    mine = values()[0]
    for collective in (all_reduce_sum, all_reduce_max, all_reduce_logsumexp):
        assert collective(mine) is mine
    assert torch.equal(all_gather(mine), mine[None])
    assert torch.equal(local_chunk(mine, 1), mine)
    assert subgroup(8) is None
