"""Tests a classifier on other labeled images."""

from pathlib import Path

import torch
from torch import Tensor

from coterie.classifier.balance import BALANCED
from coterie.classifier.classifier_file import Classifier
from coterie.classifier.trained_images import trained_contents
from coterie.classifier.training_images import TrainingImages, content_keys, training_images
from coterie.config.hardware import Runtime
from coterie.data.sources.source import ImageSource, Subset
from coterie.embedding.embed import embed_source
from coterie.embedding.forward import embedding_runtime
from coterie.errors import UserError
from coterie.evaluation.classification import Answers, Share, equal_weights
from coterie.evaluation.classifier_figures import ClassifierFigures
from coterie.evaluation.input_checks import check_finite, warn_of_undecodable
from coterie.formatting import first_few


def evaluate_classifier(classifier: Classifier, source: ImageSource, runtime: Runtime) -> ClassifierFigures:
    """Compare the answers of a classifier with labels.

    Images of classes that it does not know are left out of all figures but one: how many of them it calls unknown.

    Args:
        classifier: on the device of ``runtime``.
        source: images with labels; those without are left out.
        runtime: where and how to compute; its logger receives messages and progress.

    Raises:
        UserError: there are no labels, or no class that the classifier knows.
    """
    logger, model = runtime.logger, classifier.model
    images = training_images(source, "TEST")
    runtime = embedding_runtime(model.network, runtime)
    for line in (*model.described(runtime.precision), *images.lines):
        logger.info(line)
    for remark in images.remarks:
        logger.warning(remark)
    truth = _in_classes_of(classifier, images)
    found = embed_source(model.network, images.labeled, model.preprocessing, runtime, what="embedding labeled images")
    warn_of_undecodable(found.bad, "images", images.labeled.name, logger)
    check_finite(found.rows, "TEST")
    truth, positions = truth[torch.from_numpy(found.index)], images.positions[found.index]
    chances = classifier.probabilities(found.rows.to(runtime.device)).cpu()
    known = truth >= 0 if truth.ndim == 1 else torch.ones(len(truth), dtype=torch.bool)
    remarks = [*_others(classifier, chances[~known]), *_seen(classifier, Subset(source, positions), runtime)]
    weights = equal_weights(truth[known]) if BALANCED in (classifier.about or {}) else None
    answers = Answers(chances[known], truth[known], weights)
    if classifier.threshold is not None:
        low = int((answers.confidence.double() < classifier.threshold).sum())
        remarks.append(f"called unknown, though their class is known: {Share(low, len(answers.truth))}")
    return ClassifierFigures(
        "of TEST", classifier.classes, answers, positions[known.numpy()], classifier.threshold, remarks=tuple(remarks)
    )


def _in_classes_of(classifier: Classifier, images: TrainingImages) -> Tensor:
    """The labels of images as numbers of the classifier's classes; -1 where it does not know the class."""
    if images.multi_label != classifier.multi_label:
        has, takes = ("several", "one") if images.multi_label else ("one", "several")
        raise UserError(f"TEST has {has} labels an image, and the classifier gives {takes}: name images of its kind")
    place = {name: number for number, name in enumerate(classifier.classes)}
    unknown = [name for name in images.classes if name not in place]
    if len(unknown) == len(images.classes):
        raise UserError(
            f"TEST has no class that the classifier knows: it knows {first_few(classifier.classes, ', ')}; TEST has "
            f"{first_few(images.classes, ', ')}"
        )
    if images.truth.ndim == 2:
        columns = torch.zeros(len(images.truth), len(place), dtype=torch.bool)
        for number, name in enumerate(images.classes):
            if name in place:
                columns[:, place[name]] = images.truth[:, number]
        return columns
    return torch.tensor([place.get(name, -1) for name in images.classes])[images.truth]


def _others(classifier: Classifier, chances: Tensor) -> list[str]:
    """What there is to say of images of other classes."""
    if not len(chances):
        return []
    line = f"{len(chances)} images are of classes that the classifier does not know, and count in no other figure"
    if classifier.threshold is not None:
        low = int((chances.amax(dim=1).double() < classifier.threshold).sum())
        line += f"; called unknown: {Share(low, len(chances))}"
    return [line]


def _seen(classifier: Classifier, images: ImageSource, runtime: Runtime) -> list[str]:
    """How many of the images it was trained on."""
    trained = trained_contents(Path(classifier.model.name))
    if not trained:
        return []
    seen = sum(key in trained for key in content_keys(images, runtime.logger))
    return [f"{seen} of {len(images)} images are among those that it was trained on, which flatters"] if seen else []
