"""What a table holds for each image beside its name: its embedding and group, or the features of its patches."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, final, runtime_checkable

import numpy as np
import pyarrow as pa
from torch import Tensor

from coterie.data.sources.source import ImageSource

Features = Literal["pooled", "patch", "map"]
"""What ``coterie embed`` writes: an embedding of each image, or the features of its patches as rows or as a map."""
FEATURES: tuple[Features, ...] = ("pooled", "patch", "map")


@runtime_checkable
class Rows(Protocol):
    """What a row holds, as columns after the name of the image.

    Attributes:
        noun: what these rows are, in messages.
        work: what making them is called, in messages.
        array: name of the column whose numbers an ``.npy`` file can hold instead; None: there is none.
    """

    noun: ClassVar[str]
    work: ClassVar[str]
    array: ClassVar[str | None]

    def facts(self) -> dict[str, Any]:
        """Plain values that tell these rows from others in the description of a folder."""

    def shape(self) -> tuple[int, ...]:
        """Shape of ``array`` for one image."""

    def fields(self) -> Mapping[str, pa.DataType]:
        """Name and type of each column, in order."""

    def columns(
        self, source: ImageSource, positions: np.ndarray, outputs: tuple[Tensor, ...]
    ) -> Mapping[str, pa.Array | np.ndarray]:
        """The columns of some images.

        Args:
            source: provides labels and classes.
            positions: of the images in the source, ``[b]``.
            outputs: of the network, ``[b, ...]`` each.

        Returns:
            One array of length b for each field; ``array`` is float32 ``[b, *shape]``.
        """


@final
@dataclass(frozen=True)
class EmbeddingRows:
    """Label and class if there are any, embedding, group and its probability.

    Attributes:
        width: of the embeddings.
    """

    width: int
    noun: ClassVar[str] = "embeddings"
    work: ClassVar[str] = "embedding"
    array: ClassVar[str | None] = "embedding"

    def facts(self) -> dict[str, Any]:
        """As of :class:`Rows`; those that earlier versions wrote."""
        return {"width": self.width}

    def shape(self) -> tuple[int, ...]:
        """As of :class:`Rows`."""
        return (self.width,)

    def fields(self) -> Mapping[str, pa.DataType]:
        """As of :class:`Rows`."""
        lists = pa.list_(pa.field("element", pa.float32()), self.width)  # the name that parquet gives it
        return {**_LABELS, "embedding": lists, "group": pa.int32(), "probability": pa.float32()}

    def columns(
        self, source: ImageSource, positions: np.ndarray, outputs: tuple[Tensor, ...]
    ) -> Mapping[str, pa.Array | np.ndarray]:
        """As of :class:`Rows`; outputs are embedding ``[b, f]``, group ``[b]`` and probability ``[b]``."""
        embedding, group, probability = (each.cpu().numpy() for each in outputs)
        return {
            **_label_columns(source, positions),
            "embedding": np.ascontiguousarray(embedding, dtype=np.float32),
            "group": pa.array(group.astype(np.int32)),
            "probability": pa.array(probability.astype(np.float32)),
        }


@final
@dataclass(frozen=True)
class PatchRows:
    """Label and class if there are any, and the features of the patches: ``patches [P, F]`` or ``map [F, h, w]``.

    Attributes:
        layout: ``patch`` or ``map``.
        of_one: shape of the features of one image.
    """

    layout: Literal["patch", "map"]
    of_one: tuple[int, ...]
    noun: ClassVar[str] = "patch features"
    work: ClassVar[str] = "embedding"
    array: ClassVar[str | None] = "patches"

    def facts(self) -> dict[str, Any]:
        """As of :class:`Rows`."""
        return {"features": self.layout, "shape": self.of_one}

    def shape(self) -> tuple[int, ...]:
        """As of :class:`Rows`."""
        return self.of_one

    def fields(self) -> Mapping[str, pa.DataType]:
        """As of :class:`Rows`; a fixed-size list that knows its shape."""
        return {**_LABELS, "patches": pa.fixed_shape_tensor(pa.float32(), self.of_one)}

    def columns(
        self, source: ImageSource, positions: np.ndarray, outputs: tuple[Tensor, ...]
    ) -> Mapping[str, pa.Array | np.ndarray]:
        """As of :class:`Rows`; the output is that of :class:`coterie.models.patch_features.PatchFeatures`."""
        patches = np.ascontiguousarray(outputs[0].cpu().numpy(), dtype=np.float32)
        return {**_label_columns(source, positions), "patches": patches}


_LABELS = {"label": pa.int64(), "class": pa.string()}


def _label_columns(source: ImageSource, positions: np.ndarray) -> dict[str, pa.Array]:
    labels = [source.label(int(i)) for i in positions]
    classes = [source.classes[label] if label is not None and label < len(source.classes) else None for label in labels]
    return {"label": pa.array(labels, pa.int64()), "class": pa.array(classes, pa.string())}


def row_bytes(rows: Rows) -> int:
    """How many bytes the numbers of one row take, without its texts.

    Args:
        rows: what a row holds.
    """
    return 4 * math.prod(rows.shape()) if rows.array else 0
