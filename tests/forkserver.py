"""One server for all tests that need a process of their own: it has imported everything once and forks each process.

A start takes 0.1 s of CPU time instead of 5 s. There is one such server in a process, and what it imports has to be said
before it starts: hence one list for all.
"""

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload([
    "torch", "torchvision", "timm", "timm.optim", "torch._dynamo", "torch.distributed",
    "coterie.api", "coterie.cli.main", "coterie.display.terminal", "coterie.evaluation.probes.embedding_probes",
    "sklearn.linear_model", "sklearn.neighbors", "sklearn.cluster",
    "lightly.loss", "lightly.models.modules", "lightly.transforms", "lightly.data", "lightly.utils.lars",
    "tests.distributed.running", "tests.faults.running", "tests.fuzz.images", "tests.fuzz.trial", "tests.fuzz.weights",
])  # fmt: skip
"""What is not installed is passed over."""


def start_processes(work: Callable[..., None], arguments: tuple[Any, ...], nprocs: int) -> None:
    """Call ``work(number, *arguments)`` in so many processes, and raise what one of them raises."""
    mp.start_processes(work, arguments, nprocs=nprocs, start_method="forkserver")
