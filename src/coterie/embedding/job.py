"""Embeddings of a whole source as parquet: one file by one process, or a folder of parts by any number of them."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from coterie.atomic import write_text, writing
from coterie.config.hardware import Runtime, choose_autocast, choose_device
from coterie.data.loading.center_crop import Preprocessing
from coterie.data.sources.fingerprint import Fingerprint
from coterie.data.sources.source import ImageSource
from coterie.embedding.cache import state_key
from coterie.embedding.embed import Embedder
from coterie.embedding.forward import Then, embedding_runtime
from coterie.embedding.parquet import bad_lines, write_rows
from coterie.embedding.parts import BAD_IMAGES, EmbeddingParts
from coterie.embedding.ray_job import import_ray, write_on_ray
from coterie.errors import BadConfig, NoImages, UserError
from coterie.exporting.backbone_file import WEIGHTS
from coterie.exporting.model import open_model
from coterie.exporting.preprocessing import with_options
from coterie.logger import Logger, NullLogger
from coterie.models.backbone import feature_width
from coterie.models.image_sizes import check_image_size
from coterie.paths import expand
from coterie.signals import if_stopped, listening, raising
from coterie.training.loaded_run import load_run
from coterie.training.student import no_groups

RESUME = ": run the same command again to write the missing parts"


def open_embedder(
    model: str | Path, source: ImageSource, runtime: Runtime, options: Mapping[str, Any] | None = None
) -> Embedder:
    """The backbone and, of a run, the groups of a MODEL, and the images for them.

    Args:
        model: a MODEL; of a run, finished or not, its newest checkpoint.
        source: the images.
        runtime: where the network is, its precision, and how many processes load images.
        options: of :func:`coterie.exporting.model.open_model`.

    Raises:
        UserError: there is no such model.
    """
    opened = _open_run(model, runtime, options or {})
    network, groups, preprocessing, facts, remarks = opened or _open_file(model, runtime, options or {})
    runtime = embedding_runtime(network, runtime)
    facts["source"] = Fingerprint.of(source).key
    return Embedder(network, source, preprocessing, feature_width(network), facts, runtime, remarks, groups)


Opened = tuple[nn.Module, Then, Preprocessing, dict[str, Any], tuple[str, ...]]
"""The backbone, groups and probabilities of embeddings, how images are prepared, plain values that identify the network, lines
about it."""


def _open_run(model: str | Path, runtime: Runtime, options: Mapping[str, Any]) -> Opened | None:
    """The student of a run's newest checkpoint; None if the MODEL is no run, or one of which only the weights are left."""
    folder = expand(model)
    if not (folder / "config.toml").is_file():
        return None
    if (folder / WEIGHTS).is_file() and not (folder / "checkpoint").is_dir():
        return None
    given = options.get("backbone")
    module = given if isinstance(given, nn.Module) else None
    loaded = load_run(folder, runtime.device, module)
    settings, student = loaded.config.backbone, loaded.student
    if module is None and given not in (None, settings.name):
        raise BadConfig(f"--backbone is {options['backbone']}, but {model} is a {settings.name}: leave out --backbone")
    changes = {name: value for name, value in options.items() if name != "backbone"}
    preprocessing = with_options(loaded.preprocessing, **changes)
    if preprocessing.size != loaded.preprocessing.size:
        check_image_size(student.encoder.backbone, settings, preprocessing.size)
    precision = embedding_runtime(student.encoder.backbone, runtime).precision
    groupless = () if student.groups is not None else (_no_groups(model),)
    remarks = (f"{model}: a run, a {settings.name}", f"images: {preprocessing}; {precision}", *groupless)
    facts = {"weights": state_key(student.state_dict()), "temperature": loaded.config.temperature}
    return student.encoder.backbone, loaded.nearest_groups, preprocessing, facts, remarks


def _open_file(model: str | Path, runtime: Runtime, options: Mapping[str, Any]) -> Opened:
    opened = open_model(model, runtime.device, **options)
    remarks = (*opened.described(embedding_runtime(opened.network, runtime).precision), _no_groups(model))
    facts: dict[str, Any] = {"weights": state_key(opened.network.state_dict())}
    return opened.network, no_groups, opened.preprocessing, facts, remarks


def _no_groups(model: str | Path) -> str:
    return f"{model} has no groups: each image gets group -1 and probability 0"


def _introduce(embedder: Embedder, logger: Logger) -> None:
    """Say what embeds; not before everything is known to fit, so that an error stands alone."""
    for line in embedder.remarks:
        logger.info(line)


def open_parts(
    model: str | Path,
    source: ImageSource,
    out: str | Path,
    options: Mapping[str, Any],
    device: str,
    precision: str,
    part_images: int,
    workers: int,
) -> EmbeddingParts:
    """A folder of parts, new or to be resumed; for an actor of Ray, which chooses its own device.

    Args:
        model: a MODEL.
        source: the images.
        out: the folder.
        options: of :func:`coterie.exporting.model.open_model`.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``float32`` or ``bfloat16``.
        part_images: images per part.
        workers: processes that load images.
    """
    runtime = Runtime.choose(device, precision, workers)
    return EmbeddingParts(out, open_embedder(model, source, runtime, options), part_images)


def embed_to_file(
    model: str | Path,
    source: ImageSource,
    out: str | Path,
    runtime: Runtime,
    options: Mapping[str, Any] | None = None,
) -> int:
    """Write one parquet file. Images that could not be decoded are listed beside it.

    Args:
        model: a MODEL.
        source: the images.
        out: the file.
        runtime: where and how to compute.
        options: of :func:`coterie.exporting.model.open_model`.

    Returns:
        How many images the file holds.

    Raises:
        NoImages: not one image could be decoded.
        UserError: several processes were to write it.
    """
    if _share()[1] > 1:
        raise UserError(
            f"{out}: several processes write a folder of parts; give --out a name that does not end in .parquet"
        )
    embedder = open_embedder(model, source, runtime, options)
    _introduce(embedder, runtime.logger)
    with _stopping_on_signals(": nothing was written"), writing(out) as part:
        batches = embedder.batches(runtime.logger)
        written, bad = write_rows(part, embedder.width, embedder.source, batches, embedder.runtime.precision)
        if not written:
            raise NoImages(f"not one of the {len(embedder.source)} images can be decoded; the first: {bad[0][1]}")
    if bad:
        write_text(f"{out}.bad.txt", bad_lines(embedder.source, bad))
        runtime.logger.warning(f"{len(bad)} images could not be decoded: {out}.bad.txt lists them")
    return written


def embed_to_folder(
    model: str | Path,
    source: ImageSource,
    out: str | Path,
    runtime: Runtime,
    part_images: int,
    options: Mapping[str, Any] | None = None,
) -> int:
    """Write the parts that are missing, or of several processes this one's share of them.

    Process r of W takes every W-th part, whatever is there already: no two ever take the same, and none is left out,
    at whatever moments they start.

    Args:
        model: a MODEL.
        source: the images.
        out: the folder of parts.
        runtime: where and how to compute.
        part_images: images per part.
        options: of :func:`coterie.exporting.model.open_model`.

    Returns:
        How many images are in the parts that are there.

    Raises:
        UserError: the folder holds something else, or what keeps a part from being written.
    """
    rank, world = _share()
    logger = NullLogger() if rank else runtime.logger
    parts = EmbeddingParts(out, open_embedder(model, source, runtime, options), part_images)
    _introduce(parts.embedder, logger)
    missing = _missing(parts, logger)
    with _stopping_on_signals(RESUME):
        what = "embedding" if world == 1 else f"embedding, the first of {world} processes"
        parts.write([each for each in missing if each % world == rank], logger, what)
    return _images_there(parts, rank, runtime.logger)


def embed_with_ray(
    model: str | Path,
    source: ImageSource,
    out: str | Path,
    part_images: int,
    options: Mapping[str, Any] | None = None,
    *,
    address: str,
    actors: int = 0,
    device: str = "auto",
    precision: str = "auto",
    workers: int = -1,
    logger: Logger,
) -> int:
    """Have Ray's actors write the parts that are missing.

    Args:
        model: a MODEL.
        source: the images.
        out: the folder of parts.
        part_images: images per part.
        options: of :func:`coterie.exporting.model.open_model`.
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
    if _share()[1] > 1:
        raise UserError("--ray starts processes of its own: run it without torchrun")
    import_ray()  # before the folder is made
    autocast = choose_autocast(precision, choose_device("cpu" if device == "cpu" else "auto"))
    here = Runtime(autocast=autocast, logger=logger, automatic=precision == "auto")
    parts = EmbeddingParts(out, open_embedder(model, source, here, options), part_images)
    same = parts.embedder.runtime.precision
    _introduce(parts.embedder, logger)
    missing = _missing(parts, logger)
    with _stopping_on_signals(RESUME, at_once=True):
        if missing:
            write = partial(open_parts, model, source, out, options or {}, device, same, part_images)
            with _explaining_pickling():
                write_on_ray(write, missing, logger, address=address, actors=actors, device=device, workers=workers)
    return _images_there(parts, 0, logger)


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


def _missing(parts: EmbeddingParts, logger: Logger) -> list[int]:
    missing = parts.missing()
    if 0 < len(missing) < parts.count:
        logger.info(f"{parts.count - len(missing)} of {parts.count} parts are there already")
    return missing


def _images_there(parts: EmbeddingParts, rank: int, logger: Logger) -> int:
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


def _share() -> tuple[int, int]:
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
