"""A table of a whole source: one file by one process, or a folder of parts by any number of them."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import pyarrow as pa

from coterie.atomic import write_text, writing
from coterie.config.hardware import Runtime, choose_autocast, choose_device
from coterie.embedding.embed import Embedder
from coterie.embedding.parquet import bad_lines, write_rows
from coterie.embedding.parts import BAD_IMAGES, TableParts
from coterie.embedding.ray_job import import_ray, write_on_ray
from coterie.errors import BadConfig, NoImages, UserError
from coterie.logger import Logger, NullLogger
from coterie.paths import expand
from coterie.signals import if_stopped, listening, raising

RESUME = ": run the same command again to write the missing parts"
FILES = (".parquet", ".csv", ".npy")
"""Endings of a table in one file; any other name is a folder of parts."""
_OTHER_FILES = (".arrow", ".feather", ".h5", ".json", ".jsonl", ".npz", ".pt", ".safetensors", ".tsv", ".txt", ".xlsx")
"""Endings of what nobody means as a folder."""

Opening = Callable[[Runtime], Embedder]
"""Opens the network and the images on a runtime; for Ray it must be picklable."""


def write_table(
    opening: Opening,
    out: str | Path,
    *,
    part_images: int | None = None,
    arrays: str = "parquet",
    ray: str | None = None,
    actors: int = 0,
    device: str = "auto",
    precision: str = "auto",
    workers: int = -1,
    logger: Logger,
) -> int:
    """Write a row for each image, to a file or a folder of parts.

    Args:
        opening: opens the network and the images.
        out: a file, ``.parquet``, ``.csv`` or ``.npy``, or else a folder, which is resumed, and all processes or Ray write it.
        part_images: as of :class:`coterie.embedding.parts.TableParts`.
        arrays: of a folder: ``npy`` to write features to an ``.npy`` file for each part.
        ray: address of a Ray cluster, ``auto``, or ``local`` for one on this machine; None: without Ray.
        actors: of Ray, at most; 0: one per GPU, or without GPUs one for every two cores.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; with Ray, of each actor.
        precision: ``auto``, ``float32`` or ``bfloat16``.
        workers: processes that load images; -1: as many as there are cores to spare.
        logger: receives messages and progress.

    Returns:
        How many images are in the file, or in the parts that are there.

    Raises:
        NoImages: not one image could be decoded.
        UserError: the output is something else, cannot hold these rows, or cannot be written.
    """
    if arrays not in ("parquet", "npy"):
        raise BadConfig(f"--arrays is {arrays!r}: use parquet or npy")
    if kind := _file_ending(out):
        if ray is not None:
            raise UserError(f"{out}: Ray writes a folder of parts; give --out a name without {kind}")
        return write_file(opening, out, Runtime.choose(device, precision, workers, logger))
    if ray is None:
        runtime = Runtime.choose(device, precision, workers, logger)
        return write_folder(opening, out, runtime, part_images, arrays=arrays == "npy")
    return write_folder_on_ray(
        opening,
        out,
        part_images,
        arrays=arrays == "npy",
        address=ray,
        actors=actors,
        device=device,
        precision=precision,
        workers=workers,
        logger=logger,
    )


def _file_ending(out: str | Path) -> str:
    """The ending of a table in one file; empty of a folder.

    Raises:
        UserError: it is the ending of another kind of file.
    """
    kind = Path(out).suffix
    if kind in FILES:
        return kind
    if kind.lower() in (*FILES, *_OTHER_FILES) and not expand(out).is_dir():
        raise UserError(
            f"{out}: tables are written as {', '.join(FILES)}, or as a folder, whose name has no such ending"
        )
    return ""


def open_parts(
    opening: Opening,
    out: str | Path,
    part_images: int | None,
    arrays: bool,
    device: str,
    precision: str,
    workers: int,
) -> TableParts:
    """A folder of parts, new or to be resumed; for an actor of Ray, which chooses its own device.

    Args:
        opening: opens the network and the images.
        out: the folder.
        part_images: as of :class:`coterie.embedding.parts.TableParts`, as is ``arrays``.
        arrays: write ``.npy`` files.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``float32`` or ``bfloat16``.
        workers: processes that load images.
    """
    return TableParts(out, opening(Runtime.choose(device, precision, workers)), part_images, arrays=arrays)


def write_file(opening: Opening, out: str | Path, runtime: Runtime) -> int:
    """Write one file; of an ``.npy``, the table beside it is ``FILE.rows.parquet``. Bad images are listed.

    Args:
        opening: opens the network and the images.
        out: the file.
        runtime: where and how to compute.

    Returns:
        How many images the file holds.

    Raises:
        NoImages: not one image could be decoded.
        UserError: several processes were to write it, or it cannot hold these rows.
    """
    kind = Path(out).suffix
    if process_share()[1] > 1:
        raise UserError(
            f"{out}: several processes write a folder of parts; give --out a name that does not end in {kind}"
        )
    embedder = opening(runtime)
    rows, source, fields = embedder.rows, embedder.source, embedder.rows.fields().values()
    if kind == ".csv" and any(pa.types.is_nested(each) or isinstance(each, pa.ExtensionType) for each in fields):
        raise UserError(f"{out}: these {rows.noun} have lists in them, which CSV does not hold: use .parquet")
    if kind == ".npy" and rows.array is None:
        raise UserError(f"{out}: {rows.noun} are no array of numbers: use .csv or .parquet")
    _introduce(embedder, runtime.logger)
    array = writing(out) if kind == ".npy" else nullcontext()
    with (
        _stopping_on_signals(": nothing was written"),
        array as numbers,  # complete after the table beside it
        writing(f"{out}.rows.parquet" if kind == ".npy" else out) as part,
    ):
        batches, precision = embedder.batches(runtime.logger), embedder.runtime.precision
        written, bad = write_rows(part, rows, source, batches, precision, csv=kind == ".csv", array=numbers)
        if not written:
            raise NoImages(f"not one of the {len(source)} images can be decoded; the first: {bad[0][1]}")
    listed = expand(f"{out}.bad.txt")
    listed.unlink(missing_ok=True)  # of an earlier table
    if bad:
        write_text(listed, bad_lines(source, bad))
        runtime.logger.warning(f"{len(bad)} images could not be decoded: {out}.bad.txt lists them")
    return written


def write_folder(
    opening: Opening, out: str | Path, runtime: Runtime, part_images: int | None, *, arrays: bool = False
) -> int:
    """Write the parts that are missing, or of several processes this one's share of them.

    Process r of W takes every W-th part, whatever is there already: no two ever take the same, and none is left out,
    at whatever moments they start.

    Args:
        opening: opens the network and the images.
        out: the folder of parts.
        runtime: where and how to compute.
        part_images: as of :class:`coterie.embedding.parts.TableParts`, as is ``arrays``.
        arrays: write ``.npy`` files.

    Returns:
        How many images are in the parts that are there.

    Raises:
        UserError: the folder holds something else, or what keeps a part from being written.
    """
    rank, world = process_share()
    logger = NullLogger() if rank else runtime.logger
    parts = TableParts(out, opening(runtime), part_images, arrays=arrays)
    _introduce(parts.embedder, logger)
    missing, work = _missing(parts, logger), parts.embedder.rows.work
    with _stopping_on_signals(RESUME):
        what = work if world == 1 else f"{work}, the first of {world} processes"
        parts.write([each for each in missing if each % world == rank], logger, what)
    return _images_there(parts, rank, runtime.logger)


def write_folder_on_ray(
    opening: Opening,
    out: str | Path,
    part_images: int | None,
    *,
    arrays: bool = False,
    address: str,
    actors: int = 0,
    device: str = "auto",
    precision: str = "auto",
    workers: int = -1,
    logger: Logger,
) -> int:
    """Have Ray's actors write the parts that are missing.

    Args:
        opening: opens the network and the images; it is pickled.
        out: the folder of parts.
        part_images: as of :class:`coterie.embedding.parts.TableParts`, as is ``arrays``.
        arrays: write ``.npy`` files.
        address: of a Ray cluster, ``auto``, or ``local`` for one on this machine.
        actors: at most so many; 0: one per GPU, or without GPUs one for every two cores.
        device: of each actor: ``auto``, ``cpu`` or ``cuda``.
        precision: of each actor; ``auto`` is resolved on this machine, so that all parts have the same.
        workers: of each actor, to load images; -1: as its share of the cores allows.
        logger: receives messages and progress.

    Returns:
        How many images are in the parts that are there.

    Raises:
        UserError: the folder holds something else, or what keeps a part from being written.
    """
    if process_share()[1] > 1:
        raise UserError("--ray starts processes of its own: run it without torchrun")
    import_ray()  # before the folder is made
    autocast = choose_autocast(precision, choose_device("cpu" if device == "cpu" else "auto"))
    here = Runtime(autocast=autocast, logger=logger, automatic=precision == "auto")
    parts = TableParts(out, opening(here), part_images, arrays=arrays)
    same = parts.embedder.runtime.precision
    _introduce(parts.embedder, logger)
    missing = _missing(parts, logger)
    with _stopping_on_signals(RESUME, at_once=True):
        if missing:
            write = partial(open_parts, opening, out, part_images, arrays, device, same)
            where = partial(write_on_ray, address=address, actors=actors, device=device, workers=workers)
            with _explaining_pickling():
                where(write, missing, logger, what=parts.embedder.rows.work)
    return _images_there(parts, 0, logger)


def _introduce(embedder: Embedder, logger: Logger) -> None:
    """Say what embeds; not before everything is known to fit, so that an error stands alone."""
    for line in embedder.remarks:
        logger.info(line)


@contextmanager
def _explaining_pickling() -> Iterator[None]:
    """Context in which Ray's long message about a value that it cannot pickle becomes one line."""
    try:
        yield
    except TypeError as error:
        if "serializ" not in str(error):
            raise
        raise UserError(
            "these images, or this backbone, cannot be pickled, so Ray cannot send them to its actors: embed without ray"
        ) from error


def _missing(parts: TableParts, logger: Logger) -> list[int]:
    missing = parts.missing()
    if 0 < len(missing) < parts.count:
        logger.info(f"{parts.count - len(missing)} of {parts.count} parts are there already")
    return missing


def _images_there(parts: TableParts, rank: int, logger: Logger) -> int:
    """Count, and report how far all processes are: the first does, and one that finds everything done."""
    (held, bad), missing = parts.count_images(), len(parts.missing())
    if not missing and not held:
        raise NoImages(f"not one of the {parts.total} images can be decoded: {parts.folder / BAD_IMAGES} lists them")
    if rank == 0 or not missing:
        if bad:
            logger.warning(f"{bad} images could not be decoded: {parts.folder / BAD_IMAGES} lists them")
        others = ": other processes are still at work" if missing else ""
        logger.info(f"{parts.count - missing} of {parts.count} parts are there{others}")
    return held


def process_share() -> tuple[int, int]:
    """Which process this is, and of how many: as torchrun says, or whoever else sets its two variables.

    Raises:
        UserError: they do not fit.
    """
    rank, world = (os.environ.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise UserError(f"RANK is {rank!r} and WORLD_SIZE {world!r}: start the processes with torchrun, or unset both")
    return int(rank), int(world)


@contextmanager
def _stopping_on_signals(then: str, *, at_once: bool = False) -> Iterator[None]:
    """Inside, signals end the work after this batch, or ``at_once`` where nothing but waiting is interrupted.

    Nothing half-written is left.
    """
    with listening(), if_stopped(lambda: then), raising() if at_once else nullcontext():
        yield
