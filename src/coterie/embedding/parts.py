"""Embeddings of a source as a folder of parts, which any number of processes write and no interruption leaves half done."""

import json
import os
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from coterie.atomic import SUFFIX, write_text, writing
from coterie.data.loading.prefetch import PrefetchProcess
from coterie.data.sources.source import Prefetchable, shard_layout
from coterie.embedding.embed import BATCH_SIZE, Embedded, Embedder
from coterie.embedding.parquet import bad_lines, write_rows
from coterie.errors import BadRun, UserError
from coterie.logger import Logger, NullLogger

PART_IMAGES = 65_536
"""Images of a part, unless it is said: what a process that is killed may have to do again."""
FACTS = "_embedding.json"
BAD_IMAGES = "_bad_images"
_LAYOUT = 1
_STREAM_PARTS = 64  # so many parts are read by the same loader, which then need not start anew for each
_NAME = re.compile(r"part-(\d{8,})\.parquet")
_OTHERS = {
    "weights": "embeddings by other weights (the run may have gone on since)",
    "source": "embeddings of other images, or their files have changed since",
    "images": "embeddings of another number of images",
    "part_images": "parts of another size (--part-images)",
}


class EmbeddingParts:
    """A folder with a parquet file for every so many consecutive images of a source; together they are one table.

    ``part-00000012.parquet`` is whole or not there, and holds the rows that the single file of the source would have at
    its place, batch by batch from the same images. ``_bad_images/part-00000012.txt`` lists its images that could not be
    decoded, if there are any; ``_embedding.json`` says what the folder is of. Readers of parquet leave out names with ``_``.
    What is there is never made again, so that a process needs to know nothing of the others but which parts are not its own.
    """

    def __init__(self, folder: str | Path, embedder: Embedder, images: int = PART_IMAGES) -> None:
        """Begin the folder, or go on with it: with parts of so many ``images``.

        Raises:
            BadRun: it holds something else, or cannot be written.
            UserError: parts cannot have so many images.
        """
        if images < 1 or images % BATCH_SIZE:
            fits = max(1, round(images / BATCH_SIZE)) * BATCH_SIZE
            raise UserError(f"--part-images is {images}: give a multiple of {BATCH_SIZE}, such as {fits}")
        self.folder, self.embedder, self.images = Path(folder), embedder, images
        self.total = len(embedder.source)
        self.count = -(-self.total // images)
        _take(self.folder, self._facts())

    def there(self) -> set[int]:
        """The numbers of the parts that are done."""
        found = map(_NAME.fullmatch, os.listdir(self.folder))  # noqa: PTH208 -- names are wanted
        return {int(each[1]) for each in found if each}

    def missing(self) -> list[int]:
        """The numbers of the others."""
        there = self.there()
        return [number for number in range(self.count) if number not in there]

    def held(self) -> tuple[int, int]:
        """How many images the parts that are there hold, and how many of theirs could not be decoded.

        Raises:
            BadRun: a part is damaged.
        """
        there = sorted(self.there())
        rows, runs = sum(_rows_of(self._path(number)) for number in there), map(self._run, there)
        return rows, sum(stop - start for start, stop in runs) - rows

    def write(self, numbers: Sequence[int], logger: Logger | None = None, what: str = "embedding") -> None:
        """Write these parts, in their order.

        Raises:
            UserError: the disk is full, the images stay away; what is there is whole.
        """
        source, embedded = self.embedder.source, self._embedded(numbers)
        layout = shard_layout(source)
        fetching = PrefetchProcess(source) if layout.remote and isinstance(source, Prefetchable) else None
        stream = (logger or NullLogger()).progress(embedded, sum(map(self._batches, numbers)), what)
        try:
            for place, number in enumerate(numbers):
                if fetching is not None:  # this part and the next
                    fetching.request(
                        [shard for each in numbers[place : place + 2] for shard in layout.overlapping(*self._run(each))]
                    )
                self._write_part(number, islice(stream, self._batches(number)))
            next(stream, None)  # there is no more: a bar comes to its end
        finally:
            embedded.close()
            if fetching is not None:
                fetching.close()

    def _write_part(self, number: int, batches: Iterator[Embedded]) -> None:
        path, source = self._path(number), self.embedder.source
        for left in self.folder.glob(f".{path.name}.*{SUFFIX}"):  # by a process that was killed
            with suppress(OSError):
                left.unlink()
        with writing(path) as part:
            _, bad = write_rows(part, self.embedder.width, source, batches)
            if bad:  # before the part is there: nobody comes back for a list that is missing
                write_text(self._bad_path(number), bad_lines(source, bad))
            else:
                self._bad_path(number).unlink(missing_ok=True)

    def _embedded(self, numbers: Sequence[int]) -> Generator[Embedded, None, None]:
        for first in range(0, len(numbers), _STREAM_PARTS):
            yield from self.embedder.of([self._run(number) for number in numbers[first : first + _STREAM_PARTS]])

    def _run(self, number: int) -> tuple[int, int]:
        return number * self.images, min((number + 1) * self.images, self.total)

    def _batches(self, number: int) -> int:
        start, stop = self._run(number)
        return -(-(stop - start) // BATCH_SIZE)

    def _path(self, number: int) -> Path:
        return self.folder / f"part-{number:08d}.parquet"

    def _bad_path(self, number: int) -> Path:
        return self.folder / BAD_IMAGES / f"part-{number:08d}.txt"

    def _facts(self) -> dict[str, Any]:
        own = {"layout": _LAYOUT, "batch": BATCH_SIZE, "images": self.total, "part_images": self.images}
        facts = {
            **own,
            "preprocessing": asdict(self.embedder.preprocessing),
            "width": self.embedder.width,
            **self.embedder.facts,
        }
        return dict(json.loads(json.dumps(facts)))  # as it comes back from the file: tuples are lists


def _take(folder: Path, facts: Mapping[str, Any]) -> None:
    """See that a folder is of these embeddings, or empty: then it is made so."""
    path = folder / FACTS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = os.listdir(folder)  # noqa: PTH208 -- at one moment: another process may be beginning it
        before = json.loads(path.read_text("utf-8")) if FACTS in names else None
    except (FileExistsError, NotADirectoryError) as error:
        raise BadRun(f"{folder} is a file: choose another --out, or name one table with .parquet at its end") from error
    except OSError as error:
        raise BadRun(f"cannot use {folder}: {error.strerror}; choose another --out") from error
    except (ValueError, RecursionError) as error:
        raise BadRun(f"{path} is damaged: choose another --out") from error
    if before is None:
        if any(not name.startswith(".") for name in names):
            raise BadRun(f"{folder} holds something else than embeddings: choose another --out")
        write_text(path, json.dumps(facts, indent=2) + "\n")
    elif before != facts:
        theirs = before if isinstance(before, dict) else {}
        differing = [name for name in [*_OTHERS, *facts] if theirs.get(name) != facts.get(name)]
        what = _OTHERS.get(differing[0] if differing else "", "embeddings that were made in another way")
        raise BadRun(f"{folder} holds {what}: choose another --out")


def _rows_of(path: Path) -> int:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException) as error:
        raise BadRun(f"{path} is damaged: remove it, and the same command makes it again") from error
