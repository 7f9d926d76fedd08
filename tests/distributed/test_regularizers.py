"""Each kind over three processes: the same term and the same gradient as over one that holds all images."""

from pathlib import Path

import torch

from coterie.distributed.collectives import all_reduce_sum
from coterie.distributed.processes import world_size
from coterie.grouping.gradient_share import gradient_share
from coterie.grouping.regularizers import (
    CodingRate,
    KoLeo,
    MeanEntropy,
    Regularizer,
    Uniformity,
    VarianceCovariance,
    regularize,
)
from tests.distributed.running import one_of
from tests.forkserver import start_processes
from tests.grouping.unit_rows import unit

WORLD, IMAGES = 3, 4
KINDS = [MeanEntropy(0.7), CodingRate(0.02), VarianceCovariance(), Uniformity(alignment=0.5), KoLeo(0.3)]
CASES = [*((kind, 6) for kind in KINDS), (CodingRate(), 16)]  # with a width: fewer dimensions than images, and more
CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def backward(kind: Regularizer, part: slice, width: int) -> list[torch.Tensor]:
    """Loss, term, gradients as DDP averages them, and the share of the regularizer, for some of the images."""
    z, p = (unit(2, WORLD * IMAGES, width, seed=seed)[:, part].requires_grad_() for seed in (0, 1))
    predictions = (p[0] * p[1]).sum(dim=1).mean()
    loss, term, squares = regularize(kind, predictions, z, p, [unit(5, width, seed=2), unit(3, width, seed=3)], 0.1)
    assert term is not None
    assert squares is not None
    loss.backward()
    assert p.grad is not None
    gradient = torch.zeros_like(z) if z.grad is None else z.grad
    share = gradient_share(all_reduce_sum(squares))
    mean = all_reduce_sum(loss.detach()) / world_size()
    return [mean, term, gradient / world_size(), p.grad / world_size(), torch.tensor(share)]


def _work(number: int, folder: str) -> None:
    with one_of(WORLD, number, folder):
        found = [backward(kind, slice(number * IMAGES, (number + 1) * IMAGES), width) for kind, width in CASES]
        torch.save(found, f"{folder}/{number}.pt")


def test_processes_together_regularize_as_one_does(tmp_path: Path) -> None:
    start_processes(_work, (str(tmp_path),), nprocs=WORLD)
    apart = [torch.load(tmp_path / f"{number}.pt") for number in range(WORLD)]
    for number, (kind, width) in enumerate(CASES):
        loss, term, of_z, of_p, share = backward(kind, slice(None), width)
        for process, found in enumerate(each[number] for each in apart):
            part = slice(process * IMAGES, (process + 1) * IMAGES)
            expected = [loss, term, of_z[:, part], of_p[:, part], share]
            for mine, one in zip(found, expected, strict=True):
                torch.testing.assert_close(mine, one.detach(), **CLOSE)
