"""Embeddings of a whole source as parquet: one file by one process, or a folder of parts by any number of them."""

import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from coterie.atomic import write_text, writing
from coterie.config.hardware import choose_device, choose_workers
from coterie.data.sources.open import open_source
from coterie.distributed.processes import local_device
from coterie.embedding.cache import source_key, state_key
from coterie.embedding.embed import Embedder
from coterie.embedding.parquet import bad_lines, write_rows
from coterie.embedding.parts import BAD_IMAGES, EmbeddingParts
from coterie.embedding.ray_job import write_on_ray
from coterie.errors import NoImages, UserError
from coterie.logger import Item, Logger, NullLogger
from coterie.models.backbone import feature_width
from coterie.training.load import load_run
from coterie.training.student import predict_groups, preprocessing_of


class Stopped(UserError):  # noqa: N818
    """The process was asked to leave; it says so with the status of that signal."""

    status = 128 + signal.SIGTERM


def open_embedder(run: str | Path, data: Sequence[str], device: str = "cpu", workers: int = 0) -> Embedder:
    """The backbone and the groups of a run, and the images for them.

    Args:
        run: a run's folder.
        data: sources of images.
        device: ``auto``, ``cpu`` or ``cuda``.
        workers: processes that load images; -1: as many as there are cores to spare for this process.

    Raises:
        UserError: there is no such run, or there are no such images.
    """
    where = local_device(choose_device(device))
    saved, source = load_run(run, where), open_source(*data)
    facts = {
        "weights": state_key(saved.student.state_dict()),
        "temperature": saved.config.temperature,
        "source": source_key(source) or " ".join(data),
    }
    look, width = predict_groups(saved.student, saved.config.temperature), feature_width(saved.student.encoder.backbone)
    return Embedder(look, source, preprocessing_of(saved.config), width, facts, choose_workers(workers), where)


def open_parts(
    run: str | Path, data: Sequence[str], out: str | Path, device: str, images: int, workers: int
) -> EmbeddingParts:
    """A folder of parts, begun or gone on with; arguments as of `open_embedder` and `EmbeddingParts`."""
    return EmbeddingParts(out, open_embedder(run, data, device, workers), images)


def embed_to_file(
    run: str | Path, data: Sequence[str], out: str | Path, *, device: str, workers: int, logger: Logger
) -> int:
    """Write one parquet file; how many images it holds. Bad images are listed beside it.

    Raises:
        NoImages: not one image could be decoded.
        UserError: several processes were to write it.
    """
    if _share()[1] > 1:
        raise UserError(
            f"{out}: several processes write a folder of parts; name one in --out, without .parquet at its end"
        )
    embedder = open_embedder(run, data, device, workers)
    with _leaving_when_asked(logger, "nothing was written") as heard, writing(out) as part:
        written, bad = write_rows(part, embedder.width, embedder.source, embedder.batches(heard))
        if not written:
            raise NoImages(f"not one of the {len(embedder.source)} images can be decoded; the first: {bad[0][1]}")
    if bad:
        write_text(f"{out}.bad.txt", bad_lines(embedder.source, bad))
        logger.warning(f"{len(bad)} images could not be decoded: {out}.bad.txt lists them")
    return written


def embed_to_folder(
    run: str | Path,
    data: Sequence[str],
    out: str | Path,
    *,
    device: str,
    workers: int,
    part_images: int,
    ray: str | None,
    actors: int,
    logger: Logger,
) -> int:
    """Write the parts that are missing, or of several processes this one's share; how many images are there then.

    A process of W takes every W-th part, whatever is there already: so no two ever take the same, and none is left
    out, at whatever moments they begin.

    Raises:
        UserError: the folder holds something else; or what keeps a part from being written.
    """
    rank, world = _share()
    if ray is not None and world > 1:
        raise UserError("--ray starts processes of its own: run it without torchrun")
    opened, first = partial(open_parts, run, data, out), NullLogger() if rank else logger
    parts = opened("cpu" if ray else device, part_images, workers)
    missing = parts.missing()
    if 0 < len(missing) < parts.count:
        first.info(f"{parts.count - len(missing)} of {parts.count} parts are there already")
    then = "the same command goes on with the parts that are missing"
    with _leaving_when_asked(first, then, waiting=ray is not None) as heard:
        if ray is None:
            what = "embedding" if world == 1 else f"embedding, the first of {world} processes"
            parts.write([each for each in missing if each % world == rank], heard, what)
        elif missing:
            write = partial(opened, device, part_images)
            write_on_ray(write, missing, heard, address=ray, actors=actors, device=device, workers=workers)
    return _told(parts, rank, logger)


def _told(parts: EmbeddingParts, rank: int, logger: Logger) -> int:
    """Of several processes the first tells how far all are; and one that finds all done, if it was not the first."""
    (held, bad), missing = parts.count_images(), len(parts.missing())
    if not missing and not held:
        raise NoImages(f"not one of the {parts.total} images can be decoded: {parts.folder / BAD_IMAGES} lists them")
    if rank == 0 or not missing:
        if bad:
            logger.warning(f"{bad} images could not be decoded: {parts.folder / BAD_IMAGES} lists them")
        others = ": other processes are still at work" if missing else ""
        logger.info(f"{parts.count - missing} of {parts.count} parts are there{others}")
    return held


def _share() -> tuple[int, int]:
    """Which process this is, and of how many: as torchrun says, or whoever else sets its two variables.

    Raises:
        UserError: they do not fit.
    """
    rank, world = (os.environ.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise UserError(f"RANK is {rank!r} and WORLD_SIZE {world!r}: start the processes with torchrun, or unset both")
    return int(rank), int(world)


class _Leaving:
    """A logger that ends the work where it tells how far it is, once the process was asked to leave."""

    def __init__(self, logger: Logger, then: str) -> None:
        self.logger, self.then, self.asked = logger, then, False
        self.info, self.warning, self.log_metrics = logger.info, logger.warning, logger.log_metrics

    def ask(self, number: int, _: object) -> None:
        """On the signal; at a second one the process ends wherever it is."""
        self.asked = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def leave(self, number: int, _: object) -> None:
        """On the signal, where nothing but waiting is interrupted."""
        raise Stopped(f"stopped: {self.then}")

    def progress(self, items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
        """The items until somebody asks; an error that a signal raises anywhere is lost, or worse, while Python forks."""
        for item in self.logger.progress(items, total, what):
            if self.asked:
                raise Stopped(f"stopped: {self.then}")
            yield item


@contextmanager
def _leaving_when_asked(logger: Logger, then: str, *, waiting: bool = False) -> Iterator[Logger]:
    """While this lasts, SIGTERM ends the work after this batch, or if it is but ``waiting``, at once.

    What is half written is removed. The work is to be told to the logger that comes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield logger
        return
    leaving = _Leaving(logger, then)
    before = signal.signal(signal.SIGTERM, leaving.leave if waiting else leaving.ask)
    try:
        yield leaving
    finally:
        signal.signal(signal.SIGTERM, before)
