"""Embeds all images of a source, in memory or batch by batch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from coterie.config.hardware import ON_CPU, Runtime
from coterie.data.loading.center_crop import Preprocessing, center_crop_batches
from coterie.data.sources.source import ImageSource, Subset
from coterie.embedding.forward import Network, Then, forward_pass
from coterie.embedding.rows import Rows
from coterie.errors import NoImages
from coterie.logger import Logger, NullLogger
from coterie.signals import check_interrupted

EMBED_BATCH_SIZE = 256


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of the images of a source that could be decoded.

    Attributes:
        index: position of each image in the source.
        rows: outputs of the network, float32, on the CPU.
        labels: labels of the images; -1: none.
        bad: (position, reason) of the images that could not be decoded.
    """

    index: Int[np.ndarray, " n"]
    rows: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"]
    bad: tuple[tuple[int, str], ...]


EmbeddedBatch = tuple[Int[np.ndarray, " b"], tuple[Tensor, ...], tuple[tuple[int, str], ...]]
"""Positions in the source of the images of a batch that could be decoded, the outputs of the network for them, and (position,
reason) of the others."""


def embedded_batches(
    network: Network,
    source: ImageSource,
    preprocessing: Preprocessing,
    runtime: Runtime = ON_CPU,
    *,
    then: Then | None = None,
    what: str = "embedding",
) -> Iterator[EmbeddedBatch]:
    """Embed a source in order, batch by batch; one batch is held at a time, whatever the length of the source.

    Args:
        network: as of :func:`coterie.embedding.forward.forward_pass`, as is ``then``.
        source: the images.
        preprocessing: how they are prepared for the network.
        runtime: where the network is, in which precision it computes, and how many processes load images; its logger
            receives progress.
        then: further outputs, computed from the first in float32.
        what: name of this work for the logger.

    Yields:
        Positions, outputs on ``device``, and bad images.
    """
    batches = center_crop_batches(
        source,
        size=preprocessing.size,
        channels=preprocessing.channels,
        mean=preprocessing.mean,
        std=preprocessing.std,
        crop=preprocessing.crop,
        interpolation=preprocessing.interpolation,
        value_range=preprocessing.value_range,
        batch_size=EMBED_BATCH_SIZE,
        workers=runtime.workers,
        device=runtime.device,
    )
    total, encode = -(-len(source) // EMBED_BATCH_SIZE), forward_pass(network, runtime, then)
    for batch in runtime.logger.progress(batches, total, what):
        check_interrupted()
        yield batch.index.numpy(), encode(batch.views[0]) if batch.views else (), batch.bad


@dataclass(frozen=True)
class Embedder:
    """A network, the images it is applied to, and how.

    Attributes:
        network: images ``[b c h w]`` to embeddings ``[b f]``, or to whatever else the rows hold.
        source: the images.
        preprocessing: how they are prepared for the network.
        rows: what the table holds for each image.
        facts: plain values that identify this network and these images.
        runtime: where the network is, in which precision it computes, and how many processes load images.
        remarks: lines for the user about the network.
        then: further outputs, computed from the first in float32; together they are what the rows hold.
    """

    network: Network
    source: ImageSource
    preprocessing: Preprocessing
    rows: Rows
    facts: Mapping[str, Any] = field(default_factory=dict)
    runtime: Runtime = ON_CPU
    remarks: tuple[str, ...] = ()
    then: Then | None = None

    def batches(self, logger: Logger | None = None) -> Iterator[EmbeddedBatch]:
        """Embed the whole source.

        Args:
            logger: receives progress.
        """
        runtime = replace(self.runtime, logger=logger or NullLogger())
        what = self.rows.work
        return embedded_batches(self.network, self.source, self.preprocessing, runtime, then=self.then, what=what)

    def range_batches(self, ranges: Sequence[tuple[int, int]]) -> Iterator[EmbeddedBatch]:
        """Embed some ranges of the source; 16 bytes per image are held.

        Args:
            ranges: ``[start, stop)`` each. The lengths of all but the last must be multiples of `EMBED_BATCH_SIZE`: then no
                batch contains images of two ranges, and if ranges start where batches do, batches are those of `batches`.
        """
        positions = np.concatenate([np.arange(*each, dtype=np.int64) for each in ranges])
        source, quiet = Subset(self.source, positions), replace(self.runtime, logger=NullLogger())
        for places, outputs, bad in embedded_batches(self.network, source, self.preprocessing, quiet, then=self.then):
            yield positions[places], outputs, tuple((int(positions[place]), reason) for place, reason in bad)


def embed_source(
    network: Network,
    source: ImageSource,
    preprocessing: Preprocessing,
    runtime: Runtime = ON_CPU,
    *,
    what: str = "embedding",
) -> Embeddings:
    """Embed a source into memory: 4 bytes per number.

    Args:
        network: maps images ``[b c h w]`` to embeddings ``[b d]``.
        source: the images.
        preprocessing: how they are prepared for the network.
        runtime: where the network is, and how many processes load images; its logger receives progress.
        what: name of this work for the logger.

    Raises:
        NoImages: none of the images could be decoded.
    """
    index: list[np.ndarray] = []
    rows: list[Tensor] = []
    bad: list[tuple[int, str]] = []
    batches = embedded_batches(network, source, preprocessing, runtime, what=what)
    for positions, outputs, failed in batches:
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
