"""What two processes send each other in a step, and that neither is left waiting when one of them gets NaN."""

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from coterie.config.toml import from_dict
from coterie.data.loading.loader import Loader
from coterie.data.sources.arrays import Arrays
from coterie.data.sources.builtin_photos import photo_patches
from coterie.distributed.processes import rank, world_size, wrap_ddp
from coterie.training.build import build_parts
from coterie.training.loop import fit
from coterie.training.monitor import Monitor, NotFinite
from coterie.types import Batch
from tests.distributed.running import BATCH, CASES, IMAGES, one_of
from tests.forkserver import start_processes
from tests.matrix.cells import SIDE

CALLS = ("all_reduce", "all_gather")
POISONED = 3  # the step at which one process gets NaN


def parts_of(case: str) -> tuple[Any, Any, Loader]:
    config = from_dict(CASES[case])
    images = Arrays(photo_patches("train", IMAGES, SIDE).images)
    settings = {"batch_size": BATCH, "epochs": 3, "seed": 0, "rank": rank(), "world_size": world_size()}
    return config, build_parts(config, images=IMAGES), Loader(images, config.views, **settings)


def counted(case: str) -> dict[str, list[int]]:
    """Collectives of each step and the numbers (floats) they send, without those that average the gradients."""
    config, parts, loader = parts_of(case)
    sent: dict[str, list[int]] = {"calls": [], "numbers": [], "buckets": []}
    before = {name: getattr(dist, name) for name in CALLS}
    now = [0, 0, 0]

    def noting(name: str) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            tensor = args[0] if isinstance(args[0], torch.Tensor) else args[1]
            now[0], now[1] = now[0] + 1, now[1] + tensor.numel()
            return before[name](*args, **named)

        return call

    def average(state: None, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        now[2] += 1
        work = before["all_reduce"](bucket.buffer().div_(world_size()), async_op=True)
        return work.get_future().then(lambda done: done.value()[0])

    def observe(progress: Any, result: Any) -> None:
        for kept, number in zip(sent.values(), now, strict=True):
            kept.append(number)
        now[:] = [0, 0, 0]

    student = wrap_ddp(parts.student)
    student.register_comm_hook(None, average)
    for name in CALLS:
        setattr(dist, name, noting(name))
    try:
        optimizer = config.optimizer.build(parts.student)
        batches, rate = islice(loader.batches(), 9), config.learning_rate.at
        fit(
            student,
            parts.objective,
            batches,
            optimizer,
            rate,
            fill_batches=loader.fill_batches,
            seed=0,
            on_step_end=[observe],
        )
    finally:
        for name in CALLS:
            setattr(dist, name, before[name])
    return sent


def poisoned() -> tuple[int, list[int]]:
    """The last step that this process started, and the step that its error names."""
    config, parts, loader = parts_of("swav")
    monitor = Monitor(config.group_counts, BATCH, config.learning_rate, log_steps=2, write=lambda _: None)
    last = [-1]

    def batches() -> Any:
        for progress, batch in loader.batches():
            last[0] = progress.step
            bad = progress.step == POISONED and rank() == 1
            views = {number: view * torch.nan if bad else view for number, view in batch.views.items()}
            yield progress, Batch(batch.index, views)

    try:
        optimizer = config.optimizer.build(parts.student)
        student, rate = wrap_ddp(parts.student), config.learning_rate.at
        fit(student, parts.objective, batches(), optimizer, rate, seed=0, on_step_end=[monitor.on_step_end])
    except NotFinite as error:
        return last[0], [error.details["step"]]
    return -1, []


def _work(number: int, folder: str) -> None:
    with one_of(2, number, folder):
        found = {"swav": counted("swav"), "smog": counted("smog"), "poisoned": poisoned()}
        torch.save(found, f"{folder}/{number}.pt")


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("together")
    start_processes(_work, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{number}.pt", weights_only=True) for number in range(2)]


def test_what_swav_sends_in_a_step(reported: list[dict[str, Any]]) -> None:
    """Three Sinkhorn iterations per head; one collective forward and one backward per batch norm and resolution."""
    for sent in (each["swav"] for each in reported):
        backbones, heads = 2 * 20 * 2, 2
        assert sent["calls"] == [3 * 2 + backbones + heads] * 9
        assert sent["buckets"] == sent["buckets"][:1] * 9
        assert sent["buckets"][0] >= 1


def test_what_smog_sends_in_a_step(reported: list[dict[str, Any]]) -> None:
    """One sum of rows and counts per head. The first step of an epoch recomputes the groups: ten iterations of k-means.

    Before the very first step the memory is filled.
    """
    for sent in (each["smog"] for each in reported):
        usual = sent["calls"][1]
        assert usual == min(sent["calls"])
        refreshed = 2 * (1 + 10)  # two heads: their starts, and ten iterations
        filling = 3 * 2 * (20 + 2)  # batches, grouped views, batch norms
        assert [calls - usual for calls in sent["calls"]] == [filling + refreshed, 0, 0, *[refreshed, 0, 0] * 2]


def test_if_one_gets_nan_both_stop_at_the_same_step(reported: list[dict[str, Any]]) -> None:
    assert reported[0]["poisoned"] == reported[1]["poisoned"] == (POISONED, [POISONED])
