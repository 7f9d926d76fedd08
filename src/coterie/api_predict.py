"""The verb ``predict``: the labels that a trained classifier gives to images."""

from functools import partial
from pathlib import Path
from typing import Any, Unpack

from torch import nn

from coterie.classifier.predict import open_predictor
from coterie.classifier.sort_into import sort_into as sort_images_into
from coterie.config.options import PredictOptions, check_options, label_columns, machine_options
from coterie.data.sources.own_data import Data, given_data
from coterie.embedding.job import process_share, write_table
from coterie.errors import UserError
from coterie.logger import Logger
from coterie.session import session


def predict(
    classifier: str | Path,
    data: Data,
    out: str | Path,
    *,
    sort_into: str | Path | None = None,
    copy: bool = False,
    backbone: nn.Module | None = None,
    part_images: int | None = None,
    ray: str | None = None,
    actors: int = 0,
    logger: Logger | None = None,
    quiet: bool = False,
    **options: Unpack[PredictOptions],
) -> int:
    """Write name, label, probability, runner-up and its probability of each image, and whether it is ``unknown``.

    ``label`` is the likeliest in any case; ``unknown`` says that its probability is below the classifier's threshold. Of a
    classifier of several labels an image, ``label`` and ``probability`` are lists of those that are likely. Holds a few batches
    at a time.

    Args:
        classifier: the folder of a classifier, or its ``classifier.safetensors``.
        data: paths, or images of your own, as of :func:`coterie.pretrain`.
        out: a file ending in ``.csv`` or ``.parquet``, or else a folder of parts. A folder is resumed where it was left, and is
            written by all processes that torchrun started, or by Ray.
        sort_into: a folder in which each label gets a folder of links to its images; nothing is overwritten.
        copy: copy images there in place of linking to them.
        backbone: of a classifier whose backbone was given in Python, a module of it.
        part_images: images per part of a folder, a multiple of 256; None: 65,536.
        ray: for a folder: ``local`` starts Ray on this machine; ``auto`` or an address uses a cluster.
        actors: at most so many Ray actors; 0: one per GPU, or without GPUs one for every two cores.
        logger: receives messages and progress; None: they are shown.
        quiet: show nothing.
        options: the keys of :class:`coterie.config.options.PredictOptions`.

    Returns:
        How many images are in the file, or in the parts that are there; those that could not be decoded are listed beside.

    Raises:
        UserError: anything that the caller can fix, in one line.
    """
    check_options(options, PredictOptions)
    if sort_into is not None and process_share()[1] > 1:
        raise UserError("--sort-into: let the processes finish, then run the same command without torchrun")
    if copy and sort_into is None:
        raise UserError("--copy is for --sort-into FOLDER: give both, or leave out --copy")
    with session(logger, quiet) as logger:
        columns = label_columns(options)
        source = given_data(data, columns=columns, logger=logger).open(columns, logger)
        opening = partial(open_predictor, classifier, source, backbone)
        how: dict[str, Any] = {"part_images": part_images, "ray": ray, "actors": actors}
        written = write_table(opening, out, **how, **machine_options(options), logger=logger)
        if sort_into is not None:
            count = sort_images_into(sort_into, out, source, logger, copy=copy)
            logger.info(f"{sort_into}: {count} images by label")
        return written
