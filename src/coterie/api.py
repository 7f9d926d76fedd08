"""The verbs, from plan to embed. The command line calls these and nothing else."""

import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Unpack

from torch import nn

from coterie.atomic import writing
from coterie.classifier.from_options import evaluate_classifier_given
from coterie.config.hardware import Runtime
from coterie.config.options import (
    EmbedOptions,
    EvaluationOptions,
    RunOptions,
    check_options,
    label_columns,
    model_options,
    table_options,
)
from coterie.data.sources.own_data import Data, given_data
from coterie.detection.from_options import evaluate_detector_given
from coterie.distributed.processes import broadcast_object, process_group, rank
from coterie.embedding.job import write_table
from coterie.embedding.open_embedder import open_embedder
from coterie.embedding.rows import Features
from coterie.errors import BadConfig, UserError
from coterie.evaluation import model_selection
from coterie.evaluation.from_options import evaluate_given, evaluator_from_options
from coterie.evaluation.given_sets import given_probe
from coterie.evaluation.model_selection import Selection
from coterie.evaluation.results import ProbeResults
from coterie.exporting.file_kinds import holds_classifier, holds_detector, holds_segmenter
from coterie.logger import Logger, NullLogger
from coterie.methods.fitting import fit_here, plan_run, train_run
from coterie.methods.resolve import Paths, path_strings
from coterie.paths import run_folder
from coterie.reporting.comparison import ComparedRuns, compare_folders, write_comparison
from coterie.reporting.run_callbacks import own_callbacks
from coterie.reporting.run_report import rewrite_report
from coterie.reporting.tracking import tracked
from coterie.segmentation.from_options import evaluate_segmenter_given
from coterie.session import refuse_torchrun, session
from coterie.training.callback import Callback
from coterie.training.custom_parts import CustomParts, take_backbone, with_custom_parts
from coterie.training.profiling.advice import Profile
from coterie.training.profiling.choose_threads import choose_threads
from coterie.training.profiling.estimate import Plan
from coterie.training.profiling.profile import profile_run
from coterie.training.resume import saved_settings
from coterie.training.run_folder import LOG, RunFolder, read_log


def plan(
    method: str | None = None,
    data: Data = (),
    *,
    logger: Logger | None = None,
    quiet: bool = False,
    **options: Unpack[RunOptions],
) -> Plan:
    """Describe what :func:`pretrain` would train, why, how long it would take and how much memory; nothing is trained.

    Time and memory are extrapolated from some real steps in another process, of half a minute or less, or from earlier ones.

    Args:
        method: a preset, such as ``swav``; None: chosen, or that of ``config``.
        data: paths, or images of your own (:data:`coterie.data.sources.own_data.Data`); may be left out with ``config``.
        logger: receives messages and progress; None: they are shown.
        quiet: show nothing.
        options: the keys of :class:`coterie.config.options.RunOptions`.

    Raises:
        UserError: a run that must fail, and how to fix it, in one line.
    """
    refuse_torchrun()
    with session(logger, quiet) as logger:
        options, parts = take_backbone(options)
        return plan_run(method, data, options, logger, parts)


def profile(
    method: str | None = None,
    data: Data = (),
    *,
    seconds: float = 20.0,
    logger: Logger | None = None,
    quiet: bool = False,
    **options: Unpack[RunOptions],
) -> Profile:
    """Measure where the time of :func:`pretrain` would go, and what to change.

    It makes a short run in this process, of which nothing is kept.

    Args:
        method: a preset, such as ``swav``; None: chosen, or that of ``config``.
        data: paths, or images of your own (:data:`coterie.data.sources.own_data.Data`); may be left out with ``config``.
        seconds: how long to measure steps, up to 3600; warm-up and loader stages take extra time.
        logger: receives messages and progress; None: they are shown.
        quiet: show nothing.
        options: as of :func:`plan`.

    Raises:
        UserError: a run that must fail, and how to fix it, in one line.
    """
    refuse_torchrun()
    if not 0 < seconds <= 3600:
        raise UserError(f"--seconds is {seconds:g}: give a number above 0, such as 20, and at most 3600")
    with session(logger, quiet) as logger:
        options, parts = take_backbone(options)
        fitted = fit_here(method, data, options, logger, parts=parts)
        wanted, config = fitted.resolved, with_custom_parts(fitted.resolved.config, parts)
        runtime, known = Runtime.of_run(config.run, logger), fitted.rehearsal
        config = choose_threads(config, wanted.reasons, wanted.source, runtime, known=known).config
        return profile_run(config, wanted.source, seconds, logger, parts)


def pretrain(
    method: str | None = None,
    data: Data = (),
    *,
    out: str | Path,
    probe: Data = (),
    probe_test: Data = (),
    on_collapse: str | None = None,
    early_stop: bool | None = None,
    track: str | Sequence[str] = (),
    callbacks: Sequence[Callback] = (),
    parts: CustomParts | None = None,
    logger: Logger | None = None,
    quiet: bool = False,
    **options: Unpack[RunOptions],
) -> Path:
    """Pretrain a backbone on unlabeled images, or resume a run that was stopped, if ``out`` holds one.

    Args:
        method: a preset, such as ``swav``; None: chosen, or that of ``config``.
        data: paths, or images of your own (:data:`coterie.data.sources.own_data.Data`); may be left out with ``config``.
        out: the run's folder.
        probe: labeled images for a kNN probe during training.
        probe_test: labeled images to test the probe on; without it, a random fifth of ``probe``.
        on_collapse: ``warn`` or ``stop`` when the run looks collapsed; None: what ``config`` and ``settings`` say, or else
            ``warn``, whatever a run that is resumed was started with.
        early_stop: stop early when the label-free metrics plateau; None: what ``config`` and ``settings`` say, or else not.
        track: ``tensorboard``, ``wandb`` or both: where to pass the log on to (``docs/callbacks.md``).
        callbacks: called during training, before the product's own label-free metrics, probes and report.
        parts: parts of your own in place of those of the settings; give the same ones again to resume.
        logger: receives messages and progress; None: they are shown.
        quiet: show nothing.
        options: the keys of :class:`coterie.config.options.RunOptions`.

    Returns:
        The run's folder.

    Raises:
        UserError: anything that the caller can fix, in one line.
    """
    began, settings = time.monotonic(), dict[str, Any]({"run.on_collapse": on_collapse, "run.early_stop": early_stop})
    with session(logger, quiet) as logger:
        probes = given_probe(probe, probe_test, label_columns(options), logger)
        settings["probe"] = None if probes is None else probes.settings
        (options, parts), saved = take_backbone(options, parts), saved_settings(out)
        wishes: dict[str, Any] = {"parts": parts, "settings": settings, "saved": saved, "began": began}
        fitted = fit_here(method, data, options, logger, **wishes)
        wanted, config = fitted.resolved, with_custom_parts(fitted.resolved.config, parts)
        with tracked(track, callbacks) as (others, tracking), process_group(Runtime.of_run(config.run).device):
            config, reasons = broadcast_object((config, wanted.reasons))  # a guess may differ from machine to machine
            runtime = Runtime.of_run(config.run, logger if rank() == 0 else NullLogger())
            folder = RunFolder(out, held=rank() == 0)
            try:
                new, known = saved is None, fitted.rehearsal
                chosen = choose_threads(config, reasons, wanted.source, runtime, new=new, known=known)
                own = own_callbacks(chosen.config, wanted, runtime, probes, chosen.rehearsed)
                train_run(folder, fitted, chosen, runtime, [*others, *own, *tracking], parts, began)
            finally:
                folder.close()
    return folder.path


_KEPT: tuple[tuple[str, Callable[[str | Path], bool], Callable[..., ProbeResults]], ...] = (
    ("detector", holds_detector, evaluate_detector_given),
    ("segmenter", holds_segmenter, evaluate_segmenter_given),
    ("classifier", holds_classifier, evaluate_classifier_given),
)
"""What ``coterie train`` makes, how it is recognized, and what tests it."""


def evaluate(
    model: str | Path,
    train: Data,
    test: Data = (),
    *,
    probes: Sequence[str] = ("knn", "linear"),
    beside: Paths = (),
    details: bool = False,
    logger: Logger | None = None,
    quiet: bool = False,
    **options: Unpack[EvaluationOptions],
) -> ProbeResults:
    """Evaluate a network on labeled images, beside raw pixels, the untrained network and other models; or a classifier.

    Args:
        model: a classifier of :func:`coterie.train`, whose answers for ``train`` are compared with its labels; a detector,
            whose boxes are compared with ``boxes``; a segmenter, whose masks are compared with ``masks``; or a MODEL: a run's
            folder, a ``model.safetensors``, a weights file with ``backbone``, Hugging Face's folder, ``timm:NAME``.
        train: labeled sources that the probes learn from.
        test: labeled sources that the probes are tested on; if empty, a random fifth of ``train``, always the same.
        probes: any of ``knn``, ``linear``, ``linear_published``, ``clusters``, ``retrieval``, ``svm``, ``low_shot``,
            ``linear_blocks``, ``linear_images`` and ``finetune`` (``docs/evaluate.md``).
        beside: other MODELs to compare; ``backbone`` and ``size`` are theirs too.
        details: print every metric, not only the one of each probe by which models are compared.
        logger: receives messages and progress; None: they are shown.
        quiet: show nothing.
        options: the keys of :class:`coterie.config.options.EvaluationOptions`.

    Returns:
        ``{probe: {metric: value}}``, which prints as a table, and ``baselines``: the same of what is beside it. A run's folder
        keeps its figures (``evaluation.json``) and its embeddings; for other models nothing is written. Of a classifier,
        ``{"classifier": {"top1": ..., "mean_per_class": ..., "calibration_error": ...}}``, and ``figures``. Of a detector,
        ``{"detector": {"map": ..., "ap50": ..., "ap75": ...}}`` in percent; of a segmenter, ``{"segmenter": {"miou": ...,
        "miou_deviation": ..., "pixel_accuracy": ..., "mean_accuracy": ...}, "iou": {class: ...}}``.

    Raises:
        UserError: anything that the caller can fix, in one line.
    """
    with session(logger, quiet) as logger:
        columns = label_columns(options)
        for noun, holds, evaluate_kept in _KEPT:
            if holds(model):
                if given_data(test).specs or path_strings(beside):
                    learns = f"{model} is a {noun}, which learns nothing here"
                    raise BadConfig(f"{learns}: name images to test it on, without --test and --beside")
                return evaluate_kept(model, train, options, logger)
        evaluator = evaluator_from_options(model, probes, path_strings(beside), options, logger)
        result = evaluate_given(evaluator, train, test, columns)
    result.details = details
    return result


def select(
    run: str | Path, *, by: Literal["label_free", "knn"] = "label_free", out: str | Path | None = None
) -> Selection:
    """Select one of a run's snapshots, without labels, and say why.

    Args:
        run: a run's folder.
        by: ``label_free``, or ``knn``: the accuracy of the run's own probe.
        out: a file to copy its weights to, in bfloat16 as a run keeps them.

    Raises:
        UserError: the run has no snapshots with metrics.
    """
    folder = run_folder(run, LOG)
    chosen = model_selection.select_snapshot(read_log(folder), by)
    if out is not None:
        with writing(out) as part:
            shutil.copyfile(folder / chosen.snapshot, part)
    return chosen


def compare(runs: Sequence[str | Path], *, out: str | Path | None = None) -> ComparedRuns:
    """Compare runs: their settings, how far they are, and every figure in their folders.

    Args:
        runs: two runs' folders or more.
        out: an HTML file: the table, and one chart per metric with the curves of all runs.

    Raises:
        UserError: fewer than two runs, one of them twice, or a folder without a run.
    """
    found = compare_folders(runs)
    if out is not None:
        write_comparison(out, found)
    return found


def report(
    run: str | Path,
    *,
    images: Data = (),
    backbone: nn.Module | None = None,
    device: str = "auto",
    logger: Logger | None = None,
    quiet: bool = False,
) -> Path:
    """Rewrite a run's ``report.html`` from what its folder holds by now: later steps, probes, images.

    Args:
        run: a run's folder.
        images: the run's images, if they have moved or came from Python; without it, they are looked for where the run found
            them.
        backbone: the module of a run whose backbone was given in Python.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        logger: receives messages and progress; None: they are shown.
        quiet: show nothing.

    Returns:
        The page.

    Raises:
        UserError: anything that the caller can fix, in one line, such as images that are not found. The page is as it was then.
    """
    with session(logger, quiet) as logger:
        given = given_data(images, "images")
        runtime = Runtime.choose(device, logger=logger)
        return rewrite_report(run, runtime=runtime, images=given, backbone=backbone)


def embed(
    model: str | Path,
    data: Data,
    out: str | Path,
    *,
    features: Features = "pooled",
    arrays: Literal["parquet", "npy"] = "parquet",
    logger: Logger | None = None,
    quiet: bool = False,
    **options: Unpack[EmbedOptions],
) -> int:
    """Write name, label if there is one, embedding, group and its probability of each image; or the features of its patches.

    The embedding is the backbone's. The group is that of the first head whose center is nearest to the projected image, its
    probability that in ``softmax(z . centers / temperature)``; -1 and 0 where the method has no lasting groups, and where the
    MODEL is no run. In place of these three, ``features`` writes ``patches``: what the network computes last before it pools.
    Holds a few batches at a time.

    Args:
        model: a MODEL, as of :func:`evaluate`; of a run, finished or not, its newest checkpoint.
        data: paths, or images of your own, as of :func:`pretrain`.
        out: a file ending in ``.parquet`` or ``.npy`` (beside it the names in ``FILE.rows.parquet``), or else a folder of
            parts. A folder is resumed where it was left, and is written by all processes that torchrun started, or by Ray.
        features: ``pooled``; ``patch``: ``[P, F]`` of each image; or ``map``: ``[F, h, w]``.
        arrays: of a folder: ``npy`` writes the features of a part to ``_arrays/part-*.npy``.
        logger: receives messages and progress; None: they are shown.
        quiet: show nothing.
        options: the keys of :class:`coterie.config.options.EmbedOptions`.

    Returns:
        How many images are in the file, or in the parts that are there; those that could not be decoded are listed beside.

    Raises:
        UserError: anything that the caller can fix, in one line.
    """
    check_options(options, EmbedOptions)
    with session(logger, quiet) as logger:
        columns = label_columns(options)
        source = given_data(data, columns=columns, read_labels=True, logger=logger).open(
            columns, logger, tell_labels=True
        )
        opening = partial(open_embedder, model, source, model_options(options), features)
        return write_table(opening, out, arrays=arrays, **table_options(options), logger=logger)
