"""Two processes balance their rows as one process balances all of them."""

from pathlib import Path

import torch
import torch.distributed as dist

from coterie.distributed.processes import world_size
from coterie.grouping.assignment import Sinkhorn, assign
from tests.forkserver import start_processes

WORLD = 2


def rows() -> torch.Tensor:
    return torch.rand(12, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1


def worker(rank: int, folder: str) -> None:
    store = dist.FileStore(f"{folder}/store", WORLD)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=WORLD)
    assert world_size() == WORLD
    mine = rows().chunk(WORLD)[rank]
    torch.save(assign(Sinkhorn(), mine), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    start_processes(worker, (str(tmp_path),), nprocs=WORLD)
    saved = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]
    torch.testing.assert_close(torch.cat(saved), assign(Sinkhorn(), rows()), rtol=1e-12, atol=1e-12)
    alone = torch.cat([assign(Sinkhorn(), part) for part in rows().chunk(WORLD)])
    assert (alone - assign(Sinkhorn(), rows())).abs().max() > 1e-3  # balancing each half separately gives other codes
