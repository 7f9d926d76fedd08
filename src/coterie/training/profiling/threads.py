"""The number of CPU threads of a run: which ones a rehearsal tries, and which it takes."""

import os
from collections.abc import Mapping
from dataclasses import replace

import torch

from coterie.config.schema import PretrainConfig
from coterie.distributed.processes import world_size

SETTING = "run.threads"
HALF_FROM = 8
"""From so many threads on, half of them are tried too: a small network may have work for no more."""
WORTH_MORE = 0.97
"""More threads are taken where a step takes less than this share of the time."""

HOPELESS, HOPELESS_SECONDS = 3.0, 0.5
"""Threads with which a step takes so many times as long as with others, and so much longer, are not tried again."""


def threads_to_try(config: PretrainConfig, device: torch.device) -> tuple[int, ...]:
    """The numbers of threads between which a rehearsal chooses, in rising order; one where there is nothing to choose.

    On a GPU the threads of the CPU matter little. Several processes, shards and parts of the caller's are not rehearsed.

    Args:
        config: settings of the run.
        device: where it computes.
    """
    most = config.run.threads or torch.get_num_threads()
    if config.run.threads or device.type != "cpu" or world_size() > 1 or config.run.fsdp or config.custom:
        return (most,)
    return tuple(sorted({1, most, *([most // 2] if most >= HALF_FROM else [])}))


def fastest(seconds: Mapping[int, float]) -> int:
    """The number of threads to take: the fewest with which a step takes hardly longer than with the best.

    Args:
        seconds: the time of a step by the number of threads.
    """
    best = min(seconds.values())
    return min(threads for threads, each in seconds.items() if each * WORTH_MORE <= best)


def still_worth_trying(seconds: Mapping[int, float]) -> tuple[int, ...]:
    """The numbers of threads that may be the fastest: beside a busy process, two can be eighty times as slow as one.

    Args:
        seconds: the time of a step by the number of threads.
    """
    best = min(seconds.values())
    return tuple(
        threads for threads, each in seconds.items() if each <= HOPELESS * best or each - best < HOPELESS_SECONDS
    )


def reason(seconds: Mapping[int, float], busy: int, cores: int, images: int) -> str:
    """Why :func:`fastest` took its number; empty where there was only one.

    Args:
        seconds: the time of a step by the number of threads.
        busy: how many of the cores other processes kept busy.
        cores: how many cores there are.
        images: of how many images those steps were.
    """
    if len(seconds) == 1:
        return ""
    times = ", ".join(f"{each:.2g} s with {threads}" for threads, each in sorted(seconds.items()))
    beside = f", while other processes kept {busy} of {cores} cores busy" if busy else ""
    return f"the fastest of those tried{beside}: a step of {images} images took {times}"


def only_reason() -> str:
    """Why a number that was not measured was taken."""
    given = os.environ.get("OMP_NUM_THREADS")
    return f"torch's choice, with OMP_NUM_THREADS={given}" if given else "torch's choice"


def with_threads(config: PretrainConfig, threads: int) -> PretrainConfig:
    """The settings with this number of threads."""
    return config if config.run.threads == threads else replace(config, run=replace(config.run, threads=threads))
