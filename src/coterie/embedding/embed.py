"""Embeddings of all images of a source, in memory or as a stream."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from coterie.config.hardware import ON_CPU, Runtime
from coterie.data.loading.center_crop import Preprocessing, center_crop_batches
from coterie.data.sources.source import ImageSource, Subset
from coterie.errors import NoImages
from coterie.logger import Logger, NullLogger

BATCH_SIZE = 256


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of the images of a source that could be decoded.

    Attributes:
        index: position of each in the source.
        rows: what the network made of it, float32, on the CPU.
        labels: -1 where there is none.
        bad: (position, reason) of those that could not be decoded.
    """

    index: Int[np.ndarray, " n"]
    rows: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"]
    bad: tuple[tuple[int, str], ...]


Network = Callable[[Tensor], Tensor]
Embedded = tuple[Int[np.ndarray, " b"], tuple[Tensor, ...], tuple[tuple[int, str], ...]]
"""Of a batch: positions in the source, what the network gave for them, and the bad images."""


def embedded_batches(
    network: Callable[[Tensor], Tensor | tuple[Tensor, ...]],
    source: ImageSource,
    preprocessing: Preprocessing,
    runtime: Runtime = ON_CPU,
    *,
    what: str = "embedding",
) -> Iterator[Embedded]:
    """For each batch of the source, in order: positions, what the network gives for them, and the bad images.

    Holds one batch at a time, whatever the length of the source.
    """
    batches = center_crop_batches(
        source,
        size=preprocessing.size,
        channels=preprocessing.channels,
        mean=preprocessing.mean,
        std=preprocessing.std,
        batch_size=BATCH_SIZE,
        workers=runtime.workers,
        device=runtime.device,
    )
    total = -(-len(source) // BATCH_SIZE)
    for batch in runtime.logger.progress(batches, total, what):
        with torch.inference_mode():
            outputs = network(batch.views[0]) if batch.views else ()
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        yield batch.index.numpy(), outputs, batch.bad


@dataclass(frozen=True)
class Embedder:
    """A network, the images that it is to look at, and how.

    Attributes:
        network: images -> embedding ``[B, F]``, group ``[B]``, probability ``[B]``.
        source: of the images.
        preprocessing: how they are brought to the network.
        width: F.
        facts: plain values that tell this network and these images from others.
        runtime: where the network is, and how many processes load images.
    """

    network: Callable[[Tensor], tuple[Tensor, ...]]
    source: ImageSource
    preprocessing: Preprocessing
    width: int
    facts: Mapping[str, Any] = field(default_factory=dict)
    runtime: Runtime = ON_CPU

    def all(self, logger: Logger | None = None) -> Iterator[Embedded]:
        """The batches of the whole source."""
        runtime = replace(self.runtime, logger=logger or NullLogger())
        return embedded_batches(self.network, self.source, self.preprocessing, runtime)

    def of(self, runs: Sequence[tuple[int, int]]) -> Iterator[Embedded]:
        """The batches of some runs of images ``[start, stop)``; 16 bytes an image are held.

        Each run but the last must be a multiple of `BATCH_SIZE`: then no batch crosses from one to the next, and the batches
        are those of the whole source, if the runs begin where its batches do.
        """
        positions = np.concatenate([np.arange(*run, dtype=np.int64) for run in runs])
        source, quiet = Subset(self.source, positions), replace(self.runtime, logger=NullLogger())
        for places, outputs, bad in embedded_batches(self.network, source, self.preprocessing, quiet):
            yield positions[places], outputs, tuple((int(positions[place]), reason) for place, reason in bad)


def embed_source(
    network: Network,
    source: ImageSource,
    preprocessing: Preprocessing,
    runtime: Runtime = ON_CPU,
    *,
    what: str = "embedding",
) -> Embeddings:
    """All embeddings of a source, held in memory: 4 bytes a number.

    Raises:
        NoImages: not one image could be decoded.
    """
    index: list[np.ndarray] = []
    rows: list[Tensor] = []
    bad: list[tuple[int, str]] = []
    stream = embedded_batches(network, source, preprocessing, runtime, what=what)
    for positions, outputs, failed in stream:
        bad += failed
        if len(positions):
            index.append(positions)
            rows.append(outputs[0].float().cpu())
    if not rows:
        raise NoImages(f"not one of the {len(source)} images can be decoded; the first: {bad[0][1]}")
    positions = np.concatenate(index)
    labels = [source.label(int(i)) for i in positions]
    numbers = torch.tensor([-1 if label is None else label for label in labels])
    return Embeddings(positions, torch.cat(rows), numbers, tuple(bad))
