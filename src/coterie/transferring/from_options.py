"""From the options of ``transfer`` with a folder to heads that are measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from coterie.classifier.choose_kind import choose_kind
from coterie.classifier.training_images import training_images
from coterie.config.hardware import Runtime
from coterie.config.options import (
    DenseOptions,
    TransferOptions,
    label_columns,
    machine_options,
    model_options,
)
from coterie.data.sources.own_data import Data, given_data
from coterie.detection.average_precision import require_pycocotools
from coterie.detection.from_options import WHAT as A_DETECTOR
from coterie.detection.from_options import boxed_images, refuse_for_detector
from coterie.detection.from_options import given_wishes as wishes_for_detector
from coterie.errors import BadConfig
from coterie.evaluation.from_options import evaluate_given, evaluator_from_options
from coterie.evaluation.given_sets import given_sets
from coterie.evaluation.results import TransferResults
from coterie.exporting.model import is_own, is_public_file, open_beside, open_model
from coterie.logger import Logger
from coterie.segmentation.from_options import WHAT as A_SEGMENTER
from coterie.segmentation.from_options import given_wishes as wishes_for_segmenter
from coterie.segmentation.from_options import masked_images, refuse_for_segmenter
from coterie.training.model_or_new import float32_runtime, refuse_crops, refuse_without_boxes_or_masks
from coterie.transferring.heads import ClassifierHead, DetectorHead, Head, SegmenterHead
from coterie.transferring.measure import measure_heads
from coterie.transferring.results import HeadResults

SEEDS, MOST_SEEDS = 3, 100


Sets = Mapping[str, Data | tuple[Data, Data]]
"""By name, a labeled source, or a pair: to learn from, to test on."""


def named_sets(sets: Sets | Data, test: Data, options: TransferOptions) -> Sets:
    """Return the sets to evaluate on; refuse what means something only for heads.

    Args:
        sets: as a caller of :func:`coterie.transfer` gave them.
        test: images to test heads on.
        options: as a user gave them.

    Raises:
        BadConfig: something of heads is given, or there are no sets.
    """
    known = {*DenseOptions.__annotations__, "classifier", "test_boxes", "test_masks", "seeds"}
    given = next((name for name in options if name in known and options.get(name) is not None), None)
    if given is None and given_data(test, "test").specs:
        given = "test"
    if given is not None:
        raise BadConfig(
            f"--{given.replace('_', '-')} is for heads that are trained: name their folder too, as in --out FOLDER"
        )
    if not isinstance(sets, Mapping) or not sets:
        raise BadConfig(
            "name at least one set, as NAME=TRAIN or NAME=TRAIN,TEST; or give --out FOLDER to train heads on IMAGES"
        )
    return sets


def transfer_sets(
    model: str | Path,
    sets: Sets,
    probes: Sequence[str],
    beside: tuple[str, ...],
    options: TransferOptions,
    logger: Logger,
) -> TransferResults:
    """Evaluate a network on several labeled sets.

    Args:
        model: the MODEL.
        sets: by name.
        probes: names of probes.
        beside: other MODELs.
        options: as a user gave them.
        logger: receives messages and progress.

    Raises:
        UserError: anything that the caller can fix, in one line.
    """
    table, columns = TransferResults(), label_columns(options)
    evaluator = evaluator_from_options(model, probes, beside, options, logger)
    for name, where in sets.items():
        train, test = where if isinstance(where, tuple) and len(where) == 2 else (where, ())
        found = evaluate_given(evaluator, train, test, columns, name)
        table.add(name, found)  # set by set: what is done stays, whatever happens
    return table


def transfer_heads(
    model: str | Path,
    images: Data,
    test: Data,
    beside: tuple[str, ...],
    out: str | Path,
    options: TransferOptions,
    logger: Logger,
) -> HeadResults:
    """Measure heads as a caller asks for it.

    Args:
        model: the MODEL.
        images: labeled images, or those of ``boxes`` or ``masks``.
        test: images to test on; empty: a fifth of ``images``.
        beside: other MODELs.
        out: the folder.
        options: as a user gave them.
        logger: receives messages and progress.

    Raises:
        UserError: anything that the caller can fix, in one line.
    """
    refused = next(
        (name for name in ("recipe", "label_fraction", "labels_per_class") if options.get(name) is not None), None
    )
    if refused is not None:
        raise BadConfig(f"--{refused.replace('_', '-')} is for probes, and --out trains heads: give one of them")
    count, first = options.get("seeds", SEEDS), options.get("seed", 0)
    if not 1 <= count <= MOST_SEEDS or first < 0:
        raise BadConfig(f"--seeds is {count}, from --seed {first}: give 1 to {MOST_SEEDS} seeds, from 0 on")
    head, runtime = head_given(images, test, options, logger)
    opened = model_options(options)
    if not isinstance(head, ClassifierHead):
        opened.pop("size", None)  # theirs is the short side of whole images
    name, size = opened.get("backbone"), opened.get("size")
    if isinstance(name, str) and is_own(model) and any(map(is_public_file, beside)):
        opened["backbone"] = None  # the option names the network of those
    if str(model) in beside:
        raise BadConfig(f"--beside names {model}, which is the MODEL itself: leave it out")
    found = open_model(model, runtime.device, **opened)
    others = open_beside(beside, runtime.device, name, size)
    return measure_heads(head, found, others, range(first, first + count), out, runtime)


def head_given(images: Data, test: Data, options: TransferOptions, logger: Logger) -> tuple[Head, Runtime]:
    """What is to be trained, and where.

    Args:
        images: as of :func:`transfer_heads`.
        test: likewise.
        options: likewise.
        logger: likewise.

    Raises:
        UserError: options that do not go together, or images that cannot be used.
    """
    boxes, masks = options.get("boxes"), options.get("masks")
    if boxes is not None:
        return _detector(boxes, images, test, options, logger)
    if masks is not None:
        return _segmenter(masks, images, test, options, logger)
    for name, whose, give in (("test_boxes", "detectors", "--boxes FILE"), ("test_masks", "segmenters", "--masks DIR")):
        if options.get(name) is not None:
            raise BadConfig(f"--{name.replace('_', '-')} is for {whose}: give {give} too, or leave it out")
    refuse_without_boxes_or_masks(options)
    columns, kind = label_columns(options), options.get("classifier")
    given = given_sets(images, test, columns, logger, ("images", "test"))
    source, tested = given.open(columns, logger)
    labeled = training_images(source)
    chosen, _ = choose_kind(kind, [each for each in labeled.counts if each])
    for line in labeled.lines:
        logger.info(line)
    return ClassifierHead(source, tested, chosen), Runtime.choose(**machine_options(options), logger=logger)


def _detector(
    boxes: str | Path, images: Data, test: Data, options: TransferOptions, logger: Logger
) -> tuple[Head, Runtime]:
    require_pycocotools()
    refuse_for_detector(options)
    refuse_crops(options, A_DETECTOR)
    others, has_test = options.get("test_boxes"), _has_test(test, options, "test_boxes")
    runtime = float32_runtime(options, A_DETECTOR, logger)
    some = has_test and others is None
    boxed, _ = boxed_images(boxes, images, options, logger, some=some)
    tested = boxed_images(others or boxes, test, options, logger, some=some)[0] if has_test else None
    for each in (boxed, tested):
        for remark in () if each is None else each.file.remarks:
            logger.warning(remark)
    return DetectorHead(boxed, tested, wishes_for_detector(options)), runtime


def _segmenter(
    masks: str | Path, images: Data, test: Data, options: TransferOptions, logger: Logger
) -> tuple[Head, Runtime]:
    refuse_for_segmenter(options)
    refuse_crops(options, A_SEGMENTER)
    has_test, wishes = _has_test(test, options, "test_masks"), wishes_for_segmenter(options)
    runtime = float32_runtime(options, A_SEGMENTER, logger)
    masked, _ = masked_images(masks, images, options, runtime)
    others = options.get("test_masks") or masks
    tested = masked_images(others, test, options, runtime, masked.classes)[0] if has_test else None
    for each in (masked, tested):
        for remark in () if each is None else each.remarks:
            logger.warning(remark)
    return SegmenterHead(masked, tested, wishes), runtime


def _has_test(test: Data, options: TransferOptions, what: str) -> bool:
    """Whether there are test images.

    Raises:
        BadConfig: there are none, but boxes or masks of them.
    """
    given = bool(given_data(test, "test").specs)
    if not given and options.get(what) is not None:
        raise BadConfig(f"--{what.replace('_', '-')} are those of --test: name its images too")
    return given
