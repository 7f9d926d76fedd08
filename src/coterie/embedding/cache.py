"""Embeddings kept beside a run, so that a second question about the same images costs nothing."""

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
from coterie.data.sources.source import Concatenated, ImageSource, Subset
from coterie.embedding.embed import Embeddings


def weights_key(path: str | Path) -> str:
    """A name for the content of a file of weights."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def state_key(state: Mapping[str, Tensor]) -> str:
    """A name for the values of a network, wherever they came from."""
    values = (each.detach().cpu().reshape(-1).view(torch.uint8).numpy().data for each in state.values())
    said = (f"{name} {each.dtype} {tuple(each.shape)}".encode() for name, each in state.items())
    return _digest(part for pair in zip(said, values, strict=True) for part in pair)


def source_key(source: ImageSource) -> str | None:
    """A name for a source as it is now: its files with their sizes and times, and which of its images are meant.

    None where a source does not say what its files are (``files()``); its embeddings are not kept then.
    """
    if isinstance(source, Subset):
        inner = source_key(source.source)
        return inner and _digest([inner.encode(), np.ascontiguousarray(source.positions, dtype=np.int64).tobytes()])
    if isinstance(source, Concatenated):
        keys = [source_key(each) for each in source.sources]
        return _digest(key.encode() for key in keys if key) if all(keys) else None
    files: Callable[[], Iterable[bytes]] | None = getattr(source, "files", None)
    return _digest([str(len(source)).encode(), *map(_stamp, files())]) if files else None


class EmbeddingStore:
    """Embeddings of one network's weights in a folder, a file a source; those of other weights are removed."""

    def __init__(self, folder: str | Path, weights: str | Path) -> None:
        """Keep in ``folder`` what the network with these weights makes of images."""
        self.folder, self.weights = Path(folder), weights_key(weights)

    def get(self, source: ImageSource, preprocessing: Preprocessing, make: Callable[[], Embeddings]) -> Embeddings:
        """The embeddings of a source under ``preprocessing``: the kept ones, or what ``make`` gives, which is then kept.

        Labels are the source's own as they are now, whatever they were when its embeddings were made.
        """
        key = source_key(source)
        if key is None:
            return make()
        path = self.folder / f"{self.weights}-{_digest([key.encode(), repr(preprocessing).encode()])}.safetensors"
        kept = _read(path, source) if path.exists() else None
        if kept is not None:
            return kept
        made = make()
        for old in self.folder.glob("*.safetensors"):
            if not old.name.startswith(f"{self.weights}-"):
                old.unlink(missing_ok=True)
        with writing(path) as part:
            tensors = {"index": torch.from_numpy(made.index), "rows": made.rows.contiguous()}
            save_file(tensors, part, {"bad": json.dumps(made.bad)})
        return made


def _read(path: Path, source: ImageSource) -> Embeddings | None:
    """What is kept; None if it is damaged: it is made again."""
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
    except (OSError, ValueError):  # in a store: what there is to say of it stands in its name
        return path + b"\0gone"
    return path + f"\0{status.st_size}\0{status.st_mtime_ns}".encode()


def _digest(parts: Iterable[bytes | memoryview]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(memoryview(part).nbytes.to_bytes(8, "big"))
        found.update(part)
    return found.hexdigest()[:16]
