"""Embeddings cached beside a run, so that evaluating the same images again costs nothing."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from coterie.atomic import writing
from coterie.data.loading.center_crop import Preprocessing
from coterie.data.sources.pages import Pages
from coterie.data.sources.source import Concatenated, ImageSource, Subset
from coterie.embedding.embed import Embeddings

GEOMETRY = "whole pixels"
"""How center crops are placed: embeddings by an earlier version, of crops between whole pixels, are computed again."""


def weights_key(path: str | Path) -> str:
    """Identify the content of a file of weights.

    Args:
        path: of the file.
    """
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def state_key(state: Mapping[str, Tensor]) -> str:
    """Identify the values of a network, whatever file they came from.

    Args:
        state: its ``state_dict``.
    """
    values = (each.detach().cpu().reshape(-1).view(torch.uint8).numpy().data for each in state.values())
    headers = (f"{name} {each.dtype} {tuple(each.shape)}".encode() for name, each in state.items())
    return _digest(part for pair in zip(headers, values, strict=True) for part in pair)


def source_key(source: ImageSource) -> str | None:
    """Identify a source as it is now: by its files with their sizes and times, and by which of its images it consists of.

    Args:
        source: any source.

    Returns:
        None if a source does not list its files (``files()``); its embeddings are not cached then.
    """
    if isinstance(source, Subset):
        inner = source_key(source.source)
        return inner and _digest([inner.encode(), np.ascontiguousarray(source.positions, dtype=np.int64).tobytes()])
    if isinstance(source, Pages):
        inner = source_key(source.source)
        return inner and _digest([inner.encode(), source.places.tobytes(), source.offsets.tobytes()])
    if isinstance(source, Concatenated):
        keys = [source_key(each) for each in source.sources]
        return _digest(key.encode() for key in keys if key) if all(keys) else None
    files: Callable[[], Iterable[bytes]] | None = getattr(source, "files", None)
    return _digest([str(len(source)).encode(), *map(_stamp, files())]) if files else None


class EmbeddingCache:
    """Embeddings by one network in a folder, one file per source; those by other weights are removed."""

    def __init__(self, folder: str | Path, weights: str) -> None:
        """Cache in ``folder`` the embeddings by the network that ``weights`` identifies (one of the keys above)."""
        self.folder, self.weights = Path(folder), weights

    def get(
        self,
        source: ImageSource,
        preprocessing: Preprocessing,
        make: Callable[[], Embeddings],
        instead: str = "",
        precision: str = "float32",
    ) -> Embeddings:
        """Return the cached embeddings of a source, or compute and cache them.

        Labels are those that the source has now, whatever they were when its embeddings were computed.

        Args:
            source: the images.
            preprocessing: how they are prepared for the network.
            make: computes the embeddings.
            instead: names what is embedded with in place of the network, such as raw pixels.
            precision: of the network in ``make``.
        """
        path = self._path(source, preprocessing, instead, precision)
        if path is None:
            return make()
        cached = _read(path, source) if path.exists() else None
        if cached is not None:
            return cached
        made = make()
        for old in self.folder.glob("*.safetensors"):
            if not old.name.startswith(f"{self.weights}-"):
                old.unlink(missing_ok=True)
        with writing(path) as part:
            tensors = {"index": torch.from_numpy(made.index), "rows": made.rows.contiguous()}
            save_file(tensors, part, {"bad": json.dumps(made.bad)})
        return made

    def has(self, source: ImageSource, preprocessing: Preprocessing, precision: str = "float32") -> bool:
        """Whether the embeddings of a source are there; the arguments are those of :meth:`get`."""
        path = self._path(source, preprocessing, "", precision)
        return path is not None and path.exists()

    def _path(self, source: ImageSource, preprocessing: Preprocessing, instead: str, precision: str) -> Path | None:
        """The file of the embeddings of a source; None if they are not cached."""
        key = source_key(source)
        if key is None:
            return None
        asked = (key, repr(preprocessing.facts()), GEOMETRY, precision, *([instead] if instead else []))
        return self.folder / f"{self.weights}-{_digest(each.encode() for each in asked)}.safetensors"


def _read(path: Path, source: ImageSource) -> Embeddings | None:
    """The content of a file; None if it is damaged, so that it is written again."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            index, rows = file.get_tensor("index").numpy(), file.get_tensor("rows")
            bad = tuple((int(place), str(reason)) for place, reason in json.loads(file.metadata()["bad"]))
    except (safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError):
        return None
    labels = [source.label(int(place)) for place in index]
    return Embeddings(index, rows, torch.tensor([-1 if label is None else label for label in labels]), bad)


def _stamp(path: bytes) -> bytes:
    try:
        status = os.stat(path)  # noqa: PTH116 -- bytes
    except (OSError, ValueError):  # an object in a store: its name contains what identifies it
        return path + b"\0gone"
    return path + f"\0{status.st_size}\0{status.st_mtime_ns}".encode()


def _digest(parts: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(memoryview(part).nbytes.to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()[:16]
