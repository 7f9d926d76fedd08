"""What is trained on each network to compare them: a classifier, a detector or a segmenter, by the functions of ``train``.

Each head has ``columns``, the figures of its table, the leading one first, and how people call them; ``facts``, plain values of
everything that all networks have in common; ``line``, what is trained on what; and ``measure``. A head of another kind is one
more class like these in the union :data:`Head`, and a branch of :func:`coterie.transferring.from_options.head_given`.

Without test images a fifth is held out: the fifth number ``seed`` modulo five of a random partition, so five consecutive seeds
test on each image once.
"""

import hashlib
from collections.abc import Sized
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, final

import numpy as np
from jaxtyping import Int

from coterie.classifier.evaluate import evaluate_classifier
from coterie.classifier.folds import FOLDS, folds
from coterie.classifier.train import train_classifier
from coterie.classifier.training_images import content_keys, training_images
from coterie.config.hardware import Runtime
from coterie.data.sources.source import ImageSource, Subset, label_matrix, labels
from coterie.detection.boxes import BoxedSource
from coterie.detection.evaluate import evaluate_detector
from coterie.detection.train import DetectionWishes, boxed_key, train_detector
from coterie.embedding.cache import source_key
from coterie.errors import UserError
from coterie.evaluation.classifier_figures import ClassifierResults
from coterie.exporting.model import Model
from coterie.logger import NullLogger
from coterie.segmentation.evaluate import evaluate_segmenter
from coterie.segmentation.masks import MaskedSource
from coterie.segmentation.train import SegmentationWishes, chosen_schedule, train_segmenter

_Known = TypeVar("_Known", BoxedSource, MaskedSource)


@final
@dataclass(frozen=True)
class ClassifierHead:
    """A classifier.

    Attributes:
        source: images to train on; some may have no label.
        test: images to test on; None: a fifth of those with labels.
        kind: ``knn``, ``linear`` or ``finetune``; None: chosen by the number of labels.
    """

    source: ImageSource
    test: ImageSource | None
    kind: str | None

    @property
    def columns(self) -> dict[str, str]:
        """Accuracies."""
        return {"top1": "top-1", "mean_per_class": "mean over classes"}

    @property
    def facts(self) -> dict[str, Any]:
        """Everything on which the figures depend besides network and seed."""
        images = _labeled_key(self.source)
        test = None if self.test is None else _labeled_key(self.test)
        return {"head": "classifier", "kind": self.kind, "images": images, "test": test}

    @property
    def line(self) -> str:
        """What is trained on what, for people."""
        kind = self.kind or "chosen by the number of labels"
        return f"a classifier ({kind}) of {len(self.source):,} images; {_tested(self.test)}"

    @cached_property
    def _keys(self) -> list[str]:
        """What identifies the content of each labeled image: copies are held out together."""
        return content_keys(training_images(self.source).labeled, NullLogger())

    def _split(self, seed: int) -> tuple[ImageSource, ImageSource]:
        if self.test is not None:
            return self.source, self.test
        images = training_images(self.source)
        parts = folds(images.strata, self._keys, most=len(images.positions), seed=seed // FOLDS).numpy()
        held = images.positions[parts == seed % FOLDS]
        if not len(held):
            raise UserError(f"seed {seed} has no labeled image to hold out: name test images with --test")
        return _some(self.source, np.setdiff1d(np.arange(len(self.source)), held)), _some(self.source, held)

    def measure(self, model: Model, seed: int, folder: Path, runtime: Runtime) -> dict[str, float]:
        """Train and test on one network.

        Args:
            model: the network, which may be changed.
            seed: for what is held out, and for what the training draws.
            folder: what is trained is kept there; one that was stopped goes on.
            runtime: where and how to compute.

        Raises:
            UserError: images or folder cannot be used, in one line.
        """
        train, test = self._split(seed)
        asked = {"model": model.name, "precision": runtime.precision}
        trained = train_classifier(model, train, folder, runtime, asked=asked, kind=self.kind, seed=seed)
        found = ClassifierResults(evaluate_classifier(trained.classifier, test, runtime))["classifier"]
        return {name: found[name] for name in self.columns}


@final
@dataclass(frozen=True)
class DetectorHead:
    """A detector.

    Attributes:
        boxed: images and boxes to train on.
        test: those to test on; None: a fifth of the images.
        wishes: for its training.
    """

    boxed: BoxedSource
    test: BoxedSource | None
    wishes: DetectionWishes

    @property
    def columns(self) -> dict[str, str]:
        """Average precisions."""
        return {"ap50": "AP50", "map": "mAP", "ap75": "AP75"}

    @property
    def facts(self) -> dict[str, Any]:
        """Everything on which the figures depend besides network and seed."""
        test = None if self.test is None else boxed_key(self.test)
        return {"head": "detector", **_asked(self.wishes), "images": boxed_key(self.boxed), "test": test}

    @property
    def line(self) -> str:
        """What is trained on what, for people."""
        images, boxes = len(self.boxed.positions), int(self.boxed.counts.sum())
        tested = _tested(None if self.test is None else self.test.positions)
        return f"a detector of {images:,} images with {boxes:,} boxes; {tested}"

    def _split(self, seed: int) -> tuple[BoxedSource, BoxedSource]:
        return _held_out(self.boxed, self.test, seed, "boxes")

    def measure(self, model: Model, seed: int, folder: Path, runtime: Runtime) -> dict[str, float]:
        """Train and test on one network.

        Args:
            model: the network, which may be changed.
            seed: for what is held out, and for what the training draws.
            folder: what is trained is kept there; one that was stopped goes on.
            runtime: where and how to compute.

        Raises:
            UserError: images or folder cannot be used, in one line.
        """
        train, test = self._split(seed)
        wishes = replace(self.wishes, seed=seed)
        trained = train_detector(model, train, folder, runtime, wishes, asked={"model": model.name})
        return evaluate_detector(trained.detector, test, runtime)["detector"]


@final
@dataclass(frozen=True)
class SegmenterHead:
    """A segmenter.

    Attributes:
        masked: images and masks to train on.
        test: those to test on; None: a fifth of the images.
        wishes: for its training.
    """

    masked: MaskedSource
    test: MaskedSource | None
    wishes: SegmentationWishes

    @property
    def columns(self) -> dict[str, str]:
        """Overlap and accuracies."""
        return {"miou": "mIoU", "pixel_accuracy": "pixels", "mean_accuracy": "mean over classes"}

    @property
    def facts(self) -> dict[str, Any]:
        """Everything on which the figures depend besides network and seed."""
        test = None if self.test is None else self.test.key
        given = _asked(self.wishes) | {"head": "segmenter", "kind": self._kind}
        return {**given, "images": self.masked.key, "test": test}

    @property
    def line(self) -> str:
        """What is trained on what, for people."""
        images, names = len(self.masked.positions), len(self.masked.classes.names)
        tested = _tested(None if self.test is None else self.test.positions)
        return f"a segmenter ({self._kind}) of {images:,} images with masks of {names} classes; {tested}"

    @property
    def _kind(self) -> str:
        return chosen_schedule(self.wishes, None).head

    def _split(self, seed: int) -> tuple[MaskedSource, MaskedSource]:
        return _held_out(self.masked, self.test, seed, "masks")

    def measure(self, model: Model, seed: int, folder: Path, runtime: Runtime) -> dict[str, float]:
        """Train and test on one network.

        Args:
            model: the network, which may be changed.
            seed: for what is held out, and for what the training draws.
            folder: what is trained is kept there; one that was stopped goes on.
            runtime: where and how to compute.

        Raises:
            UserError: images or folder cannot be used, in one line.
        """
        train, test = self._split(seed)
        wishes = replace(self.wishes, seed=seed)
        trained = train_segmenter(model, train, folder, runtime, wishes, asked={"model": model.name})
        found = evaluate_segmenter(trained.segmenter, test, runtime)["segmenter"]
        return {name: found[name] for name in self.columns}


Head = ClassifierHead | DetectorHead | SegmenterHead


def _some(source: ImageSource, positions: Int[np.ndarray, " n"]) -> Subset:
    """Some images of a source with their labels, one each or several."""
    numbers = labels(source)
    return (
        Subset(source, positions, numbers[positions], source.classes)
        if (numbers >= 0).any()
        else Subset(source, positions)
    )


def _held_out(known: _Known, test: _Known | None, seed: int, what: str) -> tuple[_Known, _Known]:
    """Images to train on and to test on; without test images, a fifth of all is held out.

    Raises:
        UserError: there are too few.
    """
    if test is not None:
        return known, test
    images = len(known.positions)
    if images < FOLDS:
        raise UserError(f"{images} images with {what} are too few to hold out a fifth: name test images with --test")
    order = np.random.Generator(np.random.Philox(key=[seed // FOLDS, images])).permutation(images)
    held = np.isin(np.arange(images), order[seed % FOLDS :: FOLDS])
    return known.chosen(np.flatnonzero(~held)), known.chosen(np.flatnonzero(held))


def _tested(test: Sized | None) -> str:
    """What is tested on, for people."""
    return "a fifth is held out by each seed" if test is None else f"tested on {len(test):,} others"


def _asked(wishes: DetectionWishes | SegmentationWishes) -> dict[str, Any]:
    """What is asked of every training, whatever its seed is."""
    return {name: value for name, value in asdict(wishes).items() if name != "seed"}


def _labeled_key(source: ImageSource) -> str:
    """Identify images and their labels."""
    matrix = label_matrix(source)
    digest = hashlib.sha256(f"{source_key(source)} {len(source)} {matrix.classes}".encode())
    digest.update(np.packbits(matrix.rows).tobytes() + np.packbits(matrix.known).tobytes())
    return digest.hexdigest()[:16]
