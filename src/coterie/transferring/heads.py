"""What is trained on each network to compare them: a classifier or a detector, by the functions of ``coterie train``.

Each head has ``columns``, the figures of its table, the leading one first, and how people call them; ``facts``, plain values of
everything that all networks have in common; ``line``, what is trained on what; and ``measure``. A head of another kind, such as
masks, is one more class like these in the union :data:`Head`, and a branch of
:func:`coterie.transferring.from_options.head_given`.

Without test images a fifth is held out: the fifth number ``seed`` modulo five of a random partition, so five consecutive seeds
test on each image once.
"""

import hashlib
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, final

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
        tested = "a fifth is held out by each seed" if self.test is None else f"tested on {len(self.test):,} others"
        return (
            f"a classifier ({self.kind or 'chosen by the number of labels'}) of {len(self.source):,} images; {tested}"
        )

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
        wishes = {name: value for name, value in asdict(self.wishes).items() if name != "seed"}
        return {"head": "detector", **wishes, "images": boxed_key(self.boxed), "test": test}

    @property
    def line(self) -> str:
        """What is trained on what, for people."""
        images = len(self.boxed.positions)
        tested = (
            "a fifth is held out by each seed"
            if self.test is None
            else f"tested on {len(self.test.positions):,} others"
        )
        return f"a detector of {images:,} images with {int(self.boxed.counts.sum()):,} boxes; {tested}"

    def _split(self, seed: int) -> tuple[BoxedSource, BoxedSource]:
        if self.test is not None:
            return self.boxed, self.test
        images = len(self.boxed.positions)
        if images < FOLDS:
            raise UserError(f"{images} images with boxes are too few to hold out a fifth: name test images with --test")
        order = np.random.Generator(np.random.Philox(key=[seed // FOLDS, images])).permutation(images)
        held = np.isin(np.arange(images), order[seed % FOLDS :: FOLDS])
        return _chosen(self.boxed, np.flatnonzero(~held)), _chosen(self.boxed, np.flatnonzero(held))

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


Head = ClassifierHead | DetectorHead


def _some(source: ImageSource, positions: Int[np.ndarray, " n"]) -> Subset:
    """Some images of a source with their labels, one each or several."""
    numbers = labels(source)
    return (
        Subset(source, positions, numbers[positions], source.classes)
        if (numbers >= 0).any()
        else Subset(source, positions)
    )


def _chosen(boxed: BoxedSource, places: Int[np.ndarray, " n"]) -> BoxedSource:
    """Some of the images with boxes; what there is to say of the file has been said."""
    images = tuple(boxed.file.images[place] for place in places.tolist())
    positions = tuple(boxed.positions[place] for place in places.tolist())
    return BoxedSource(boxed.source, positions, replace(boxed.file, images=images, remarks=()))


def _labeled_key(source: ImageSource) -> str:
    """Identify images and their labels."""
    matrix = label_matrix(source)
    digest = hashlib.sha256(f"{source_key(source)} {len(source)} {matrix.classes}".encode())
    digest.update(np.packbits(matrix.rows).tobytes() + np.packbits(matrix.known).tobytes())
    return digest.hexdigest()[:16]
