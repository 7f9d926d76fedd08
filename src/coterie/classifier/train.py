"""Trains a classifier that is kept: features, a head chosen on held-out images, calibrated, and tested on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from coterie.classifier.balance import BALANCED
from coterie.classifier.choose_kind import Kind, choose_kind
from coterie.classifier.classifier_file import Classifier, save_classifier
from coterie.classifier.features import FeatureStore
from coterie.classifier.fit import ClassifierFit, FittedClassifier
from coterie.classifier.trained_images import write_trained_images
from coterie.classifier.training_images import TrainingImages, training_images
from coterie.config.duration import format_minutes
from coterie.config.hardware import Runtime
from coterie.data.sources.source import ImageSource
from coterie.embedding.cache import source_key, state_key
from coterie.embedding.forward import embedding_runtime
from coterie.errors import UserError
from coterie.evaluation.classifier_figures import ClassifierFigures
from coterie.exporting.model import Model
from coterie.training.time_limit import TimeLimit
from coterie.training.trained_folder import TrainedFolder


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


def train_classifier(
    model: Model,
    source: ImageSource,
    out: str | Path,
    runtime: Runtime,
    *,
    asked: Mapping[str, Any],
    kind: str | None = None,
    seed: int = 0,
    balanced: bool = False,
    limit: TimeLimit | None = None,
) -> TrainedClassifier:
    """Train a classifier on the labeled images of a source, and keep it in a folder.

    Args:
        model: the network, on the device of ``runtime``.
        source: images, some or all of which have labels; those without may help too.
        out: the folder.
        runtime: where and how to compute; its logger receives messages and progress.
        asked: what else ``config.toml`` says that was asked.
        kind: ``knn``, ``linear`` or ``finetune``; None: chosen.
        seed: for what is held out, and for fine-tuning.
        balanced: whether all classes count alike, however many images each has.
        limit: how long it may take; None: as long as it does.

    Raises:
        UserError: labels, images or folder cannot be used, or the time is too short, in one line.
    """
    logger, images = runtime.logger, training_images(source)
    chosen_kind, reason = choose_kind(kind, [each for each in images.counts if each])
    if balanced and images.multi_label:
        raise UserError("--balanced is for images of one label each, and LABELED has several: leave it out")
    runtime = embedding_runtime(model.network, runtime)
    for line in (*model.described(runtime.precision), *images.lines):
        logger.info(line)
    for remark in images.remarks:
        logger.warning(remark)
    logger.info(f"classifier: {chosen_kind} ({reason})")
    network = state_key(model.network.state_dict())
    facts: dict[str, Any] = {
        "images": source_key(source),
        "network": network,
        "preprocessing": str(model.preprocessing),
    }
    facts |= {"balanced": True} if balanced else {}
    if limit is not None and chosen_kind == "finetune":
        facts["time"] = format_minutes(limit.minutes)
    folder = TrainedFolder(out, "classifier", {**asked, "kind": chosen_kind, "seed": seed, **facts})
    try:
        store = FeatureStore(folder.path / "embeddings", model, runtime, network)
        found = ClassifierFit(folder, store, images, chosen_kind, seed, balanced, limit).run()
        classifier = _classifier(found, chosen_kind, balanced, runtime.device)
        _keep(folder, classifier, found, reason)
        return TrainedClassifier(classifier, replace(found.figures, folder=str(folder.path)), folder.path)
    finally:
        folder.close()


def _classifier(found: FittedClassifier, kind: Kind, balanced: bool, device: torch.device) -> Classifier:
    """The classifier of the head that was chosen."""
    chosen, figures, images = found.chosen, found.figures, found.learned.images
    about = {
        "model": found.model.name,
        "kind": kind,
        "candidate": chosen.name,
        **({BALANCED: "yes"} if balanced else {}),
        "images": str(len(images.positions)),
        "date": datetime.now(UTC).date().isoformat(),
        **figures.facts(),
    }
    head = chosen.head.to(device).eval()
    return Classifier(
        found.model, head, images.classes, images.multi_label, chosen.temperature, figures.threshold, about
    )


def _keep(folder: TrainedFolder, classifier: Classifier, found: FittedClassifier, reason: str) -> None:
    """Write everything but the page; the classifier itself last."""
    learned, chosen, figures = found.learned, found.chosen, found.figures
    trials = [{"candidate": each.name, "log_loss": each.log_loss, "top1": each.top1} for each in chosen.trials]
    folder.write_log(
        [*found.log, *trials, {"chosen": chosen.name, "temperature": chosen.temperature, **figures.facts()}]
    )
    images, held = learned.images, chosen.held.tolist()
    answers = iter(zip(figures.answers.predicted.tolist(), figures.answers.confidence.tolist(), strict=True))
    told = [next(answers) if each else (None, None) for each in held]
    write_trained_images(
        folder.path,
        {
            "name": [images.source.name(int(each)) for each in images.positions],
            "label": _names(images),
            "content": learned.keys,
            "held_out_answer": [None if number is None else images.classes[number] for number, _ in told],
            "held_out_probability": [confidence for _, confidence in told],
        },
    )
    threshold = {} if figures.threshold is None else {"threshold": figures.threshold}
    settings = {"candidate": chosen.name, "temperature": chosen.temperature, **threshold}
    folder.write_config(reason=reason, **settings, **figures.facts())
    save_classifier(folder.path, classifier)


def _names(images: TrainingImages) -> Sequence[str | list[str]]:
    if images.truth.ndim == 1:
        return [images.classes[number] for number in images.truth.tolist()]
    return [[images.classes[number] for number in row.nonzero()[:, 0].tolist()] for row in images.truth]
