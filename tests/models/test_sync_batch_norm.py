"""Two processes with half of the rows each normalize as one does with all of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from coterie.distributed.processes import rank
from coterie.models.sync_batch_norm import SyncBatchNorm1d, SyncBatchNorm2d, convert_sync_batch_norm
from tests.distributed.running import one_of
from tests.forkserver import start_processes

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
CASES = ("plain", "no scale", "cumulative")


def network(case: str) -> nn.Sequential:
    """A convolution and a linear layer, each with a batch norm."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {"plain": {}, "no scale": {"affine": False}, "cumulative": {"momentum": None}}[case]
    made = nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4, **settings),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
        nn.BatchNorm1d(3, **settings),
    )
    for name, weight in made.named_parameters():
        if name in ("1.weight", "5.weight"):
            nn.init.uniform_(weight, 0.5, 1.5)
    return made.double()


def images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    brightness = torch.arange(8.0)[:, None, None, None]  # so that it matters which images are normalized together
    return (torch.randn(8, 2, 5, 5, generator=generator) + brightness).double()


def trained(made: nn.Module, batch: Tensor, weights: Tensor) -> dict[str, Any]:
    """Two passes in training, the gradients of a weighted sum, and a pass in evaluation."""
    batch = batch.clone().requires_grad_()
    made(batch.detach() * 2)
    outputs = made(batch)
    (outputs * weights).sum().backward()
    found = {"outputs": outputs.detach(), "to images": batch.grad, "buffers": dict(made.named_buffers())}
    found["gradients"] = {name: each.grad for name, each in made.named_parameters()}
    found["evaluation"] = made.eval()(batch).detach()
    return found


def weights() -> Tensor:
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def _work(number: int, folder: str) -> None:
    with one_of(2, number, folder):
        found: dict[str, Any] = {}
        for case in CASES:
            made = network(case)
            names = list(made.state_dict())
            convert_sync_batch_norm(made)
            assert list(made.state_dict()) == names
            assert [type(made[1]), type(made[5])] == [SyncBatchNorm2d, SyncBatchNorm1d]
            found[case] = trained(made, images().chunk(2)[rank()], weights().chunk(2)[rank()])
        alone = network("plain")
        convert_sync_batch_norm(alone, processes=1)
        assert type(alone[1]) is nn.BatchNorm2d
        torch.save(found, f"{folder}/{number}.pt")


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("batch_norm")
    start_processes(_work, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{number}.pt", weights_only=True) for number in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_normalize_as_one(case: str, halves: list[dict[str, Any]]) -> None:
    one, (first, second) = trained(network(case), images(), weights()), (half[case] for half in halves)
    for name in ("outputs", "to images", "evaluation"):
        torch.testing.assert_close(torch.cat([first[name], second[name]]), one[name], **CLOSE)
    for half in (first, second):
        torch.testing.assert_close(half["buffers"], one["buffers"], **CLOSE)
    for name, gradient in one["gradients"].items():  # each process has the part that comes from its own rows
        torch.testing.assert_close(first["gradients"][name] + second["gradients"][name], gradient, **CLOSE)
    apart = trained(network(case), images()[:4], weights()[:4])
    assert (apart["outputs"] - first["outputs"]).abs().max() > 0.1, "each on its own would be something else"


def _neighbors(number: int, folder: str) -> None:
    with one_of(4, number, folder):
        made = network("plain")
        convert_sync_batch_norm(made, processes=2)
        found = trained(made, images().chunk(4)[rank()], weights().chunk(4)[rank()])
        torch.save(found, f"{folder}/{number}.pt")


def test_pairs_of_four_processes_normalize_as_two_processes_that_each_have_the_rows_of_a_pair(tmp_path: Path) -> None:
    """As SwAV's released code does with groups of eight."""
    start_processes(_neighbors, (str(tmp_path),), nprocs=4)
    found = [torch.load(tmp_path / f"{number}.pt", weights_only=True) for number in range(4)]
    for pair in range(2):
        own = slice(4 * pair, 4 * pair + 4)
        alone, both = trained(network("plain"), images()[own], weights()[own]), found[2 * pair : 2 * pair + 2]
        for name in ("outputs", "to images", "evaluation"):
            torch.testing.assert_close(torch.cat([each[name] for each in both]), alone[name], **CLOSE)
        for each in both:
            torch.testing.assert_close(each["buffers"], alone["buffers"], **CLOSE)
    one = trained(network("plain"), images(), weights())
    assert (one["outputs"][:2] - found[0]["outputs"]).abs().max() > 0.1, "all together would be something else"


def test_on_one_process_nothing_is_converted() -> None:
    made = network("plain")
    convert_sync_batch_norm(made)
    assert [type(made[1]), type(made[5])] == [nn.BatchNorm2d, nn.BatchNorm1d]
