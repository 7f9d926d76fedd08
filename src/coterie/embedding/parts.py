"""A table of a source as a folder of parquet parts, written by any number of processes and resumable at any time."""

import json
import os
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from coterie.atomic import SUFFIX, write_text, writing
from coterie.data.loading.prefetch import PrefetchProcess
from coterie.data.sources.source import Prefetchable, shard_layout
from coterie.embedding.embed import EMBED_BATCH_SIZE, EmbeddedBatch, Embedder
from coterie.embedding.parquet import bad_lines, write_rows
from coterie.embedding.rows import row_bytes
from coterie.errors import BadRun, UserError
from coterie.logger import Logger, NullLogger
from coterie.paths import expand

PART_IMAGES = 65_536
"""Images per part by default: what a killed process may have to compute again."""
PART_BYTES = 2**32
"""Bytes of a part by default, at most: fewer images if their features take more."""
MANIFEST = "_embedding.json"
BAD_IMAGES = "_bad_images"
ARRAYS = "_arrays"
_LAYOUT = 1
_EARLIER = "float32"  # the precision of all folders that do not say theirs
_LOADER_PARTS = 64  # parts that share a loader, which then need not be restarted for each
_NAME = re.compile(r"part-(\d{8,})\.parquet")
_DIFFERENCES = {
    "weights": "{} by other weights (the run may have been trained further)",
    "classifier": "{} by another classifier (it may have been trained further)",
    "features": "other features (--features)",
    "preprocessing": "{} of images that were prepared in another way (--size, --mean, --std, --crop, --interpolation)",
    "source": "{} of other images, or their files have changed since",
    "images": "{} of another number of images",
    "part_images": "parts of another size (--part-images)",
    "precision": "{} in another precision (--precision)",
    "arrays": "features in another kind of file (--arrays)",
}


class TableParts:
    """A folder with one parquet file per range of consecutive images; together they are one table.

    ``part-00000012.parquet`` is complete or does not exist, and contains the rows that a single file of the whole source would
    have in its place, computed from the same batches. ``_bad_images/part-00000012.txt`` lists its images that could not be
    decoded, if there are any; ``_arrays/part-00000012.npy`` holds its features if they are not in the part, and is complete
    before it; ``_embedding.json`` identifies network and images. Readers of parquet skip names that start with ``_``. Existing
    parts are never written again, so a process needs to know nothing about the others but which parts are its own.
    """

    def __init__(
        self, folder: str | Path, embedder: Embedder, images: int | None = None, *, arrays: bool = False
    ) -> None:
        """Create the folder, or resume it.

        Args:
            folder: of the parts.
            embedder: makes the rows.
            images: of a part; None: `PART_IMAGES`, or fewer if their features take more than `PART_BYTES`.
            arrays: write features to an ``.npy`` file for each part.

        Raises:
            BadRun: it contains something else, or cannot be written.
            UserError: parts cannot have that many images.
        """
        if images is None:
            fitting = PART_BYTES // max(1, row_bytes(embedder.rows)) // EMBED_BATCH_SIZE
            images = min(PART_IMAGES, max(1, fitting) * EMBED_BATCH_SIZE)
        if images < 1 or images % EMBED_BATCH_SIZE:
            suitable = max(1, round(images / EMBED_BATCH_SIZE)) * EMBED_BATCH_SIZE
            raise UserError(f"--part-images is {images}: give a multiple of {EMBED_BATCH_SIZE}, such as {suitable}")
        self.folder, self.embedder, self.images, self.arrays = expand(folder), embedder, images, arrays
        self.total = len(embedder.source)
        self.count = -(-self.total // images)
        _claim(self.folder, self._facts(), embedder.rows.noun)

    def done(self) -> set[int]:
        """The numbers of the parts that exist."""
        found = map(_NAME.fullmatch, os.listdir(self.folder))  # noqa: PTH208 -- names are wanted
        return {int(each[1]) for each in found if each}

    def missing(self) -> list[int]:
        """The numbers of the parts that do not exist yet, ascending."""
        done = self.done()
        return [number for number in range(self.count) if number not in done]

    def count_images(self) -> tuple[int, int]:
        """Count the images of the existing parts: the embedded ones, and those that could not be decoded.

        Raises:
            BadRun: a part is damaged.
        """
        done = sorted(self.done())
        rows, ranges = sum(_row_count(self._path(number)) for number in done), map(self._range, done)
        return rows, sum(stop - start for start, stop in ranges) - rows

    def write(self, numbers: Sequence[int], logger: Logger | None = None, what: str | None = None) -> None:
        """Write parts, in the given order.

        Args:
            numbers: of the parts.
            logger: receives progress.
            what: name of this work for the logger; None: that of the rows.

        Raises:
            UserError: the disk is full, or images cannot be fetched; the existing parts are complete.
        """
        source, embedded = self.embedder.source, self._embedded(numbers)
        layout = shard_layout(source)
        prefetcher = PrefetchProcess(source) if layout.remote and isinstance(source, Prefetchable) else None
        what, batches = what or self.embedder.rows.work, sum(map(self._batch_count, numbers))
        stream = (logger or NullLogger()).progress(embedded, batches, what)
        try:
            for place, number in enumerate(numbers):
                if prefetcher is not None:  # the shards of this part and of the next
                    prefetcher.request(
                        [
                            shard
                            for each in numbers[place : place + 2]
                            for shard in layout.overlapping(*self._range(each))
                        ]
                    )
                self._write_part(number, islice(stream, self._batch_count(number)))
            next(stream, None)  # nothing is left, but this completes a progress bar
        finally:
            embedded.close()
            if prefetcher is not None:
                prefetcher.close()

    def _write_part(self, number: int, batches: Iterator[EmbeddedBatch]) -> None:
        path, source, rows = self._path(number), self.embedder.source, self.embedder.rows
        array_path = self.folder / ARRAYS / f"{path.stem}.npy"
        for target in (path, array_path):
            for left_over in target.parent.glob(f".{target.name}.*{SUFFIX}"):  # by a process that was killed
                with suppress(OSError):
                    left_over.unlink()
        array = writing(array_path) if self.arrays else nullcontext()
        with writing(path) as part, array as numbers:
            _, bad = write_rows(part, rows, source, batches, self.embedder.runtime.precision, array=numbers)
            if bad:  # before the part exists: nothing would write a missing list later
                write_text(self._bad_path(number), bad_lines(source, bad))
            else:
                self._bad_path(number).unlink(missing_ok=True)

    def _embedded(self, numbers: Sequence[int]) -> Generator[EmbeddedBatch, None, None]:
        for first in range(0, len(numbers), _LOADER_PARTS):
            ranges = [self._range(number) for number in numbers[first : first + _LOADER_PARTS]]
            yield from self.embedder.range_batches(ranges)

    def _range(self, number: int) -> tuple[int, int]:
        return number * self.images, min((number + 1) * self.images, self.total)

    def _batch_count(self, number: int) -> int:
        start, stop = self._range(number)
        return -(-(stop - start) // EMBED_BATCH_SIZE)

    def _path(self, number: int) -> Path:
        return self.folder / f"part-{number:08d}.parquet"

    def _bad_path(self, number: int) -> Path:
        return self.folder / BAD_IMAGES / f"part-{number:08d}.txt"

    def _facts(self) -> dict[str, Any]:
        precision = self.embedder.runtime.precision
        own = {"layout": _LAYOUT, "batch": EMBED_BATCH_SIZE, "images": self.total, "part_images": self.images}
        facts = {
            **own,
            "preprocessing": self.embedder.preprocessing.facts(),
            **self.embedder.rows.facts(),
            **self.embedder.facts,
            **({} if precision == _EARLIER else {"precision": precision}),
            **({"arrays": "npy"} if self.arrays else {}),
        }
        return dict(json.loads(json.dumps(facts)))  # as they are read from the file: tuples become lists


def _claim(folder: Path, facts: Mapping[str, Any], noun: str) -> None:
    """Check that a folder is for these rows, or create it."""
    path = folder / MANIFEST
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = os.listdir(folder)  # noqa: PTH208 -- at one moment: another process may be creating it
        existing = json.loads(path.read_text("utf-8")) if MANIFEST in names else None
    except (FileExistsError, NotADirectoryError) as error:
        raise BadRun(f"{folder} is a file: choose another --out, or name one table with .parquet at its end") from error
    except OSError as error:
        raise BadRun(f"cannot use {folder}: {error.strerror}; choose another --out") from error
    except (ValueError, RecursionError) as error:
        raise BadRun(f"{path} is damaged: choose another --out") from error
    if existing is None:
        if any(not name.startswith(".") for name in names):
            raise BadRun(f"{folder} contains something other than {noun}: choose another --out")
        write_text(path, json.dumps(facts, indent=2) + "\n")
    elif existing != facts:
        theirs = existing if isinstance(existing, dict) else {}
        differing = [name for name in [*_DIFFERENCES, *facts] if theirs.get(name) != facts.get(name)]
        what = _DIFFERENCES.get(differing[0] if differing else "", "{} that were computed in another way")
        raise BadRun(f"{folder} contains {what.format(noun)}: choose another --out")


def _row_count(path: Path) -> int:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException) as error:
        raise BadRun(f"{path} is damaged: remove it, and run the same command again to write it anew") from error
