"""Trains a classifier that is kept: features, a head chosen on held-out images, calibrated, and tested on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coterie.classifier.calibration import unknown_threshold
from coterie.classifier.choose_head import ChosenHead, choose_head, logits_of
from coterie.classifier.choose_kind import Kind, choose_kind
from coterie.classifier.classifier_file import Classifier, save_classifier
from coterie.classifier.classifier_folder import ClassifierFolder
from coterie.classifier.features import FeatureStore
from coterie.classifier.folds import folds
from coterie.classifier.heads import probabilities
from coterie.classifier.knn_candidates import KnnCandidates
from coterie.classifier.linear_candidates import MEASURED, LinearCandidates
from coterie.classifier.training_images import TrainingImages, content_keys, copies, training_images
from coterie.classifier.unknown import unknown_found
from coterie.config.hardware import Runtime
from coterie.data.sources.source import ImageSource, random_positions
from coterie.embedding.cache import source_key, state_key
from coterie.embedding.forward import embedding_runtime
from coterie.errors import UserError
from coterie.evaluation.classification import Answers
from coterie.evaluation.classifier_figures import ClassifierFigures, UnknownFound
from coterie.exporting.model import Model
from coterie.formatting import first_few


@dataclass(frozen=True)
class TrainedClassifier:
    """What :func:`train_classifier` made.

    Attributes:
        classifier: ready to use, on the device of its training.
        figures: on images that its head was not trained on.
        folder: that it is kept in.
    """

    classifier: Classifier
    figures: ClassifierFigures
    folder: Path


@dataclass(frozen=True)
class _Learned:
    """Labeled images with their features."""

    images: TrainingImages
    keys: list[str]
    rows: Tensor
    parts: Tensor
    unlabeled: np.ndarray
    unlabeled_rows: Tensor


def train_classifier(
    model: Model,
    source: ImageSource,
    out: str | Path,
    runtime: Runtime,
    *,
    asked: Mapping[str, Any],
    kind: str | None = None,
    seed: int = 0,
) -> TrainedClassifier:
    """Train a classifier on the labeled images of a source, and keep it in a folder.

    Args:
        model: the network, on the device of ``runtime``.
        source: images, some or all of which have labels; those without may help too.
        out: the folder.
        runtime: where and how to compute; its logger receives messages and progress.
        asked: what else ``config.toml`` says that was asked.
        kind: ``knn`` or ``linear``; None: chosen.
        seed: for what is held out.

    Raises:
        UserError: labels, images or folder cannot be used, in one line.
    """
    logger, images = runtime.logger, training_images(source)
    chosen_kind, reason = choose_kind(kind, [each for each in images.counts if each])
    for line in (*model.described(embedding_runtime(model.network, runtime).precision), *images.lines):
        logger.info(line)
    for remark in images.remarks:
        logger.warning(remark)
    logger.info(f"classifier: {chosen_kind} ({reason})")
    network = state_key(model.network.state_dict())
    facts = {"images": source_key(source), "network": network, "preprocessing": str(model.preprocessing)}
    folder = ClassifierFolder(out, {**asked, "kind": chosen_kind, "seed": seed, **facts})
    try:
        store = FeatureStore(folder.path / "embeddings", model, runtime, network)
        learned = _learn(images, store, chosen_kind, seed)
        fit: LinearCandidates | KnnCandidates = KnnCandidates(len(images.classes))
        if chosen_kind == "linear":
            fit = LinearCandidates.of(len(images.classes), learned.rows, learned.unlabeled_rows)
        chosen = choose_head(
            fit, learned.rows, learned.images.truth, learned.parts, len(images.classes), fit.default, logger
        )
        figures = _figures(learned, chosen, fit, runtime)
        classifier = _classifier(model, learned, chosen, figures, chosen_kind, runtime)
        _keep(folder, classifier, learned, chosen, figures, reason)
        return TrainedClassifier(classifier, replace(figures, folder=str(folder.path)), folder.path)
    finally:
        folder.close()


def _classifier(
    model: Model, learned: _Learned, chosen: ChosenHead, figures: ClassifierFigures, kind: Kind, runtime: Runtime
) -> Classifier:
    """The classifier of the head that was chosen."""
    about = {
        "model": model.name,
        "kind": kind,
        "candidate": chosen.name,
        "images": str(len(learned.rows)),
        "date": datetime.now(UTC).date().isoformat(),
        **figures.facts(),
    }
    head, images = chosen.head.to(runtime.device).eval(), learned.images
    return Classifier(model, head, images.classes, images.multi_label, chosen.temperature, figures.threshold, about)


def _learn(images: TrainingImages, store: FeatureStore, kind: Kind, seed: int) -> _Learned:
    """Embed the images, leave out those that cannot be decoded, and divide the others into parts."""
    logger = store.runtime.logger
    places, rows = store.features(images.source, images.positions, "labeled")
    images = replace(images, positions=images.positions[places], truth=images.truth[torch.from_numpy(places)])
    gone = [name for name, count in zip(images.classes, images.counts, strict=True) if not count]
    if gone:
        raise UserError(
            f"no image of {first_few(gone, ', ')} can be decoded: leave these classes out, or copy the files again"
        )
    keys = content_keys(images.labeled, logger)
    if (line := copies(keys, images.truth)) is not None:
        logger.warning(line)
    parts = folds(images.strata, keys, seed=seed)
    unlabeled = images.unlabeled[random_positions(MEASURED, len(images.unlabeled))]
    if kind == "linear" and len(unlabeled) and not images.multi_label:
        found, others = store.features(images.source, unlabeled, "unlabeled")
        return _Learned(images, keys, rows, parts, unlabeled[found], others)
    return _Learned(images, keys, rows, parts, unlabeled[:0], rows[:0])


def _figures(
    learned: _Learned, chosen: ChosenHead, fit: LinearCandidates | KnnCandidates, runtime: Runtime
) -> ClassifierFigures:
    """Calibrated answers for the held-out images, and what else is known of the head."""
    images, held = learned.images, chosen.held
    several = images.multi_label
    logits, truth = chosen.logits[held], images.truth[held]
    answers = Answers(probabilities(logits, chosen.temperature, multi_label=several), truth)
    count = len(set(learned.parts[held].tolist()))
    title = "held out in five parts, one after another" if count > 1 else "held out, a fifth"
    threshold: float | None = None
    unknown: tuple[UnknownFound, ...] = ()
    if len(truth) and not several:
        threshold = unknown_threshold(answers.confidence)
        unknown = unknown_found(
            fit,
            chosen.name,
            learned.rows,
            images.truth,
            learned.parts,
            images.classes,
            chosen.temperature,
            runtime.logger,
        )
    guesses = None
    if len(learned.unlabeled):
        guesses = probabilities(logits_of(chosen.head, learned.unlabeled_rows), chosen.temperature).numpy()
    return ClassifierFigures(
        title,
        images.classes,
        answers,
        images.positions[held.numpy()],
        threshold,
        Answers(probabilities(logits, 1.0, multi_label=several), truth).calibration_error() if len(truth) else None,
        unknown,
        learned.unlabeled,
        guesses,
        images.remarks,
    )


def _keep(
    folder: ClassifierFolder,
    classifier: Classifier,
    learned: _Learned,
    chosen: ChosenHead,
    figures: ClassifierFigures,
    reason: str,
) -> None:
    """Write everything but the page; the classifier itself last."""
    trials = [{"candidate": each.name, "log_loss": each.log_loss, "top1": each.top1} for each in chosen.trials]
    folder.log([*trials, {"chosen": chosen.name, "temperature": chosen.temperature, **figures.facts()}])
    images, held = learned.images, chosen.held.tolist()
    answers = iter(zip(figures.answers.predicted.tolist(), figures.answers.confidence.tolist(), strict=True))
    told = [next(answers) if each else (None, None) for each in held]
    folder.write_images(
        {
            "name": [images.source.name(int(each)) for each in images.positions],
            "label": _names(images),
            "content": learned.keys,
            "held_out_answer": [None if number is None else images.classes[number] for number, _ in told],
            "held_out_probability": [confidence for _, confidence in told],
        }
    )
    threshold = {} if figures.threshold is None else {"threshold": figures.threshold}
    folder.write_config(
        {"reason": reason, "candidate": chosen.name, "temperature": chosen.temperature, **threshold, **figures.facts()}
    )
    save_classifier(folder.path, classifier)


def _names(images: TrainingImages) -> Sequence[str | list[str]]:
    if images.truth.ndim == 1:
        return [images.classes[number] for number in images.truth.tolist()]
    return [[images.classes[number] for number in row.nonzero()[:, 0].tolist()] for row in images.truth]
