"""The verbs from features to answers. The command line calls these, and those of :mod:`coterie.api`, and nothing else."""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from torch import nn

from coterie.classifier.classifier_file import find_classifier, open_classifier
from coterie.classifier.exported_head import classifier_card, exportable_classifier
from coterie.classifier.predict import open_predictor
from coterie.classifier.sort_into import check_sorting
from coterie.classifier.sort_into import sort_into as sort_images_into
from coterie.classifier.train import train_classifier
from coterie.config.duration import parse_minutes
from coterie.config.hardware import Runtime
from coterie.config.options import (
    ModelOptions,
    PredictOptions,
    StructureOptions,
    TrainOptions,
    TransferOptions,
    check_options,
    label_columns,
    machine_options,
    model_options,
    table_options,
)
from coterie.data.sources.own_data import Data, given_data
from coterie.detection.detector_file import open_detector
from coterie.detection.from_options import predict_boxes, train_detector_given
from coterie.detection.onnx_file import ExportedDetector, export_detector
from coterie.detection.train import TrainedDetector
from coterie.embedding.job import process_share, write_table
from coterie.errors import BadConfig, UserError
from coterie.evaluation.classifier_figures import ClassifierFigures
from coterie.evaluation.results import TransferResults
from coterie.exporting.export import Exported, check_format, export_model
from coterie.exporting.file_kinds import holds_classifier, holds_detector, holds_segmenter
from coterie.exporting.formats.exportable import Exportable
from coterie.exporting.model import open_model
from coterie.exporting.model_card import CardFacts
from coterie.logger import Logger
from coterie.methods.resolve import Paths, path_strings
from coterie.paths import expand
from coterie.reporting.classifier_page import write_classifier_page
from coterie.reporting.detection_page import BoxedPicture, write_detection_page
from coterie.reporting.run_card import run_card
from coterie.reporting.segmentation_page import MaskedPicture, write_segmentation_page
from coterie.reporting.structure_page import write_structure_page
from coterie.segmentation.colors import class_colors
from coterie.segmentation.from_options import predict_masks, train_segmenter_given
from coterie.segmentation.train import TrainedSegmenter
from coterie.session import refuse_torchrun, session
from coterie.training.model_or_new import refuse_without_boxes_or_masks
from coterie.training.run_folder import REPORT
from coterie.training.time_limit import TimeLimit
from coterie.transferring.from_options import Sets, named_sets, transfer_heads, transfer_sets
from coterie.transferring.results import HeadResults


def train(
    model: str | Path,
    labelled: Data,
    *,
    out: str | Path,
    logger: Logger | None = None,
    quiet: bool = False,
    **options: Unpack[TrainOptions],
) -> ClassifierFigures | TrainedDetector | TrainedSegmenter:
    """Train a classifier on labeled images, with ``boxes`` a detector, or with ``masks`` a segmenter, and keep it.

    :func:`coterie.open_classifier`, :func:`coterie.open_detector` and :func:`coterie.open_segmenter` open it. Every choice of a
    classifier is made on images that are held out, and the figures are of these. The others are trained on all images.

    Args:
        model: a MODEL, as of :func:`evaluate`; for a detector or a segmenter also ``none``, new weights of ``backbone``.
        labelled: images with labels, one each or several (``docs/data.md``); images without a label beside them help where
            labels are few. Or the images of ``boxes`` (``docs/detect.md``) or ``masks`` (``docs/segment.md``).
        out: the folder of the classifier, the detector or the segmenter; the same call again completes one that was stopped.
        logger: receives messages and progress; None: they are shown.
        quiet: show nothing.
        options: the keys of :class:`coterie.config.options.TrainOptions`.

    Returns:
        Its figures, which print as a table, or what is known of the detector or the segmenter; ``folder`` is where it is.

    Raises:
        UserError: anything that the caller can fix, in one line.
    """
    refuse_torchrun()
    check_options(options, TrainOptions)
    began, wanted = time.monotonic(), options.get("time")
    limit = None if wanted is None else TimeLimit(parse_minutes(wanted), began)
    with session(logger, quiet) as logger:
        if options.get("boxes") is not None:
            return train_detector_given(model, labelled, out, options, limit, logger)
        if options.get("masks") is not None:
            return train_segmenter_given(model, labelled, out, options, limit, logger)
        refuse_without_boxes_or_masks(options)
        columns = label_columns(options)
        runtime = Runtime.choose(**machine_options(options), logger=logger)
        opened = open_model(model, runtime.device, **model_options(options))
        given = given_data(labelled, "labelled", columns=columns, read_labels=True, logger=logger)
        source, named = given.open(columns, logger), columns.labels
        asked = {"model": str(model), "labelled": list(given.specs), "labels": named, "precision": runtime.precision}
        wishes: dict[str, Any] = {"kind": options.get("classifier"), "seed": options.get("seed", 0)}
        wishes |= {"balanced": options.get("balanced", False), "limit": limit}
        trained = train_classifier(opened, source, out, runtime, asked=asked, **wishes)
        write_classifier_page(trained.folder / REPORT, trained.figures, source, opened, trained.classifier.about or {})
    return trained.figures


def transfer(
    model: str | Path,
    sets: Sets | Data,
    *,
    out: str | Path | None = None,
    test: Data = (),
    probes: Sequence[str] = ("knn", "linear"),
    beside: Paths = (),
    details: bool = False,
    logger: Logger | None = None,
    quiet: bool = False,
    **options: Unpack[TransferOptions],
) -> TransferResults | HeadResults:
    """Evaluate a network on any number of other labeled sets; or train the same head on new weights, on it and on others.

    Args:
        model: a MODEL, as of :func:`evaluate`.
        sets: by name, a labeled source, a random fifth of which is tested on, or a pair: to learn from, to test on. With
            ``out`` labeled images, or those of ``boxes`` or ``masks``, to train heads on.
        out: a folder: a classifier, with ``boxes`` a detector, with ``masks`` a segmenter, is trained as by :func:`train`
            from new weights of the network of ``model``, from its own and from those of ``beside``, once with each of
            ``seeds`` seeds. The same call again measures what is missing.
        test: with ``out``: images to test heads on; if empty, the fifth of a seed.
        probes: as of :func:`evaluate`, on ``sets`` by name.
        beside: as of :func:`evaluate`.
        details: print every metric.
        logger: receives messages and progress; None: they are shown.
        quiet: show nothing.
        options: the keys of :class:`coterie.config.options.TransferOptions`.

    Returns:
        ``{set: {"linear_top1": value, ...}}``, which prints as a table, and ``baselines``; kept as of :func:`evaluate`. With
        ``out`` ``{network: {metric: [value of each seed]}}``, which prints as a table; kept as ``transfer.json``.

    Raises:
        UserError: anything that the caller can fix, in one line.
    """
    check_options(options, TransferOptions)
    if out is None:
        named = named_sets(sets, test, options)
        with session(logger, quiet) as logger:
            table = transfer_sets(model, named, probes, path_strings(beside), options, logger)
        table.details = details
        return table
    refuse_torchrun()
    if isinstance(sets, Mapping) or tuple(probes) != ("knn", "linear"):
        raise BadConfig("sets by name and --probes are measured without heads: leave out --out, or name images alone")
    with session(logger, quiet) as logger:
        found = transfer_heads(model, sets, test, path_strings(beside), out, options, logger)
    found.details = details
    return found


def structure(
    model: str | Path,
    images: Data,
    *,
    out: str | Path,
    segments: int = 10,
    logger: Logger | None = None,
    quiet: bool = False,
    **options: Unpack[StructureOptions],
) -> Path:
    """Write a page of what a network tells apart in a handful of images, without labels.

    Beside each image the first three principal components of its patches as colors, and their segments by k-means; a click on
    a patch shows the nearest patches of the other images.

    Args:
        model: a MODEL, as of :func:`evaluate`.
        images: paths, or images of your own, as of :func:`pretrain`; of more than 24, a random sample.
        out: the page, an ``.html`` file.
        segments: how many groups all patches are divided into, 2 to 20.
        logger: receives messages and progress; None: they are shown.
        quiet: show nothing.
        options: the keys of :class:`coterie.config.options.StructureOptions`.

    Returns:
        The page.

    Raises:
        UserError: anything that the caller can fix, in one line.
    """
    refuse_torchrun()
    check_options(options, StructureOptions)
    with session(logger, quiet) as logger:
        return write_structure_page(model, images, out, segments, options, logger)


def export(
    model: str | Path,
    *,
    out: str | Path,
    format: str,  # noqa: A002 -- what it is called everywhere
    uint8: bool = False,
    license: str = "unknown",  # noqa: A002 -- as the hub of Hugging Face calls it
    logger: Logger | None = None,
    quiet: bool = False,
    **options: Unpack[ModelOptions],
) -> Exported | ExportedDetector:
    """Write a model, a classifier or a detector for another library; the folder appears when that computes the same from it.

    Args:
        model: a MODEL, as of :func:`evaluate`, a CLASSIFIER, or a DETECTOR, for ``onnx``.
        out: the folder, which does not exist yet: weights, configuration, preprocessing, and a model card, ``README.md``.
        format: ``timm``, ``torchvision``, ``transformers``, ``onnx``, ``torch_export``, ``safetensors``, ``swav``,
            ``detectron2`` or ``mmlab`` (``docs/export.md``).
        uint8: for ``onnx`` and ``torch_export``: take images as bytes ``[B, H, W, C]`` rather than float32 ``[B, C, H, W]`` in
            [0, 1].
        license: of the weights, for the card, as SPDX names it.
        logger: receives messages and progress; None: they are shown.
        quiet: show nothing.
        options: the keys of :class:`coterie.config.options.ModelOptions`; of a CLASSIFIER ``backbone`` alone, as a module.

    Returns:
        Files, library and largest difference; prints as a line.

    Raises:
        UserError: the format cannot hold this network, with those that can; or anything that the caller can fix, in one line.
    """
    check_options(options, ModelOptions)
    check_format(format, out, bytes_in=uint8)
    if holds_detector(model):
        if options:
            raise BadConfig(f"--{next(iter(options))} is for a MODEL: {model} is a detector, whose file says it")
        with session(logger, quiet) as logger:
            logger.info(f"{format}: writing {out}, and checking it where it is read")
            return export_detector(open_detector(model), format, out, bytes_in=uint8, licensed=license)
    if holds_segmenter(model):
        raise UserError(f"{model} is a segmenter, which is not exported yet: export the MODEL that it was trained from")
    with session(logger, quiet) as logger:
        if holds_classifier(model):
            what, facts = _opened_classifier(model, license, options, logger)
        else:
            what = Exportable(open_model(model, **model_options(options), logger=logger))
            origin = (f"Weights: {Path(model).name}.",)
            facts = CardFacts(license, origin) if what.model.run is None else run_card(what.model.run, license)
        logger.info(f"{format}: writing {out}, and checking it where it is read")
        return export_model(what, format, out, bytes_in=uint8, facts=facts)


def _opened_classifier(
    model: str | Path, licensed: str, options: Mapping[str, Any], logger: Logger
) -> tuple[Exportable, CardFacts]:
    """A classifier to export, and what its card says.

    Raises:
        UserError: it is damaged, or an option is for a MODEL.
    """
    module = options.get("backbone")
    given = next((each for each in options if each != "backbone" or not isinstance(module, nn.Module)), None)
    if given is not None:
        raise BadConfig(f"--{given} is for a MODEL: {model} is a classifier, whose file says it")
    classifier = open_classifier(model, backbone=module)
    for line in classifier.model.lines:
        logger.info(line)
    return exportable_classifier(classifier, module), classifier_card(classifier, licensed)


def predict(
    classifier: str | Path,
    data: Data,
    out: str | Path,
    *,
    sort_into: str | Path | None = None,
    copy: bool = False,
    backbone: nn.Module | None = None,
    logger: Logger | None = None,
    quiet: bool = False,
    **options: Unpack[PredictOptions],
) -> int:
    """Write name, label, probability, runner-up and its probability of each image, if it is ``unknown``; or boxes, or masks.

    ``label`` is the likeliest in any case; ``unknown`` says that its probability is below the classifier's threshold. Of a
    classifier of several labels an image, ``label`` and ``probability`` are lists of those that are likely. Holds a few batches
    at a time. A detector writes COCO results to a ``.json`` file and a page beside it; a segmenter a folder of masks.

    Args:
        classifier: the folder of a classifier, or its ``classifier.safetensors``; or those of a detector or a segmenter.
        data: paths, or images of your own, as of :func:`coterie.pretrain`.
        out: a file ending in ``.csv`` or ``.parquet``, or else a folder of parts. A folder is resumed where it was left, and is
            written by all processes that torchrun started, or by Ray.
        sort_into: a folder in which each label gets a folder of links to its images; nothing is overwritten.
        copy: copy images there in place of linking to them.
        backbone: of a classifier whose backbone was given in Python, a module of it.
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
        for holds, predict_kept in ((holds_detector, _predict_boxes), (holds_segmenter, _predict_masks)):
            if holds(classifier):
                extra = "--sort-into" if sort_into is not None else "backbone" if backbone is not None else None
                return predict_kept(classifier, data, out, extra, options, logger)
        find_classifier(classifier)  # before images are counted, which may take minutes
        if options.get("boxes") is not None:
            raise BadConfig("--boxes is for a detector: leave it out")
        columns = label_columns(options)
        given = given_data(data, columns=columns, logger=logger)
        source = given.open(columns, logger)
        if sort_into is not None:
            check_sorting(sort_into, given.specs, source)
        opening = partial(open_predictor, classifier, source, backbone)
        written = write_table(opening, out, **table_options(options), logger=logger)
        if sort_into is not None:
            count = sort_images_into(sort_into, out, source, logger, copy=copy)
            logger.info(f"{sort_into}: {count} images by label")
    return written


def _predict_boxes(
    path: str | Path, data: Data, out: str | Path, given: str | None, options: PredictOptions, logger: Logger
) -> int:
    """What a detector finds, and its page; ``given`` is an option that it does not take."""
    _refuse_for(path, "detector", given)
    detector, source, found = predict_boxes(path, data, out, options, logger)
    names, page = detector.categories, Path(out).with_suffix(".html")
    pictures = [
        BoxedPicture(each.position, each.boxes, [names[label] for label in each.labels], each.scores) for each in found
    ]
    title, limits = f"{page.stem}: {detector.name}", detector.model.preprocessing.value_range
    write_detection_page(page, title, source, pictures, names, detector.about, limits)
    return len(found)


def _predict_masks(
    path: str | Path, data: Data, out: str | Path, given: str | None, options: PredictOptions, logger: Logger
) -> int:
    """What a segmenter finds, and its page; ``given`` is an option that it does not take."""
    _refuse_for(path, "segmenter", given)
    segmenter, found = predict_masks(path, data, out, options, logger)
    names, total = segmenter.classes.names, found.counts.sum()
    pictures = [
        MaskedPicture(
            each.name,
            each.pixels,
            each.overlay,
            [(name, share) for name, share in zip(names, each.shares, strict=True) if share > 0],
        )
        for each in found.pictures
    ]
    colors = ["#{:02x}{:02x}{:02x}".format(*color) for color in class_colors(names).tolist()]
    classes = list(zip(names, colors, (found.counts / total).tolist(), strict=True))
    title = f"{Path(out).name}: {segmenter.name}"
    write_segmentation_page(expand(out) / REPORT, title, pictures, classes, found.images, segmenter.about)
    return found.images


def _refuse_for(path: str | Path, noun: str, given: str | None) -> None:
    """Refuse several processes, and an option that a detector or a segmenter does not take."""
    if process_share()[1] > 1:
        raise UserError(f"{path} is a {noun}, which runs in one process: run it without torchrun")
    if given is not None:
        raise BadConfig(f"{path} is a {noun}: leave out {given}")
