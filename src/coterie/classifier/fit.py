"""Fits a classifier of one kind to labeled images, chooses and calibrates it on held-out ones, and tests it on them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from coterie.classifier.affordable import Pace, affordable_epochs, check_embedding, finetuning_pace
from coterie.classifier.balance import balance_shift, shifted
from coterie.classifier.calibration import unknown_threshold
from coterie.classifier.choose_head import ChosenHead, choose_head, logits_of
from coterie.classifier.choose_kind import Kind
from coterie.classifier.features import FeatureStore
from coterie.classifier.finetune import finetune_classifier
from coterie.classifier.heads import probabilities
from coterie.classifier.knn_candidates import KnnCandidates
from coterie.classifier.labeled_features import LabeledFeatures, drawn_unlabeled, labeled_features
from coterie.classifier.linear_candidates import WITH_UNLABELED, LinearCandidates
from coterie.classifier.training_images import TrainingImages
from coterie.classifier.unknown import unknown_found
from coterie.config.duration import format_minutes
from coterie.evaluation.classification import Answers, equal_weights
from coterie.evaluation.classifier_figures import ClassifierFigures, UnknownFound
from coterie.evaluation.probes.recipe import Recipe
from coterie.exporting.model import Model
from coterie.formatting import format_number
from coterie.training.time_limit import TimeLimit
from coterie.training.trained_folder import TrainedFolder


@dataclass(frozen=True)
class FittedClassifier:
    """A classifier before it is kept.

    Attributes:
        model: its network.
        chosen: its head.
        learned: the images.
        figures: on those that were held out.
        log: lines about epochs.
    """

    model: Model
    chosen: ChosenHead
    learned: LabeledFeatures
    figures: ClassifierFigures
    log: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class ClassifierFit:
    """Fits a classifier of a kind.

    Attributes:
        folder: keeps what was chosen, and the state of fine-tuning.
        store: embeds the images.
        images: all images.
        kind: of the classifier.
        seed: for what is held out, and for fine-tuning.
        balanced: whether all classes count alike.
        limit: how long it may take; None: as long as it does.
    """

    folder: TrainedFolder
    store: FeatureStore
    images: TrainingImages
    kind: Kind
    seed: int
    balanced: bool
    limit: TimeLimit | None

    def run(self) -> FittedClassifier:
        """Embed, choose and fit a head, fine-tune if that is wanted, and test."""
        pace = self._pace()
        learned = labeled_features(self.images, self.store, self.kind, self.seed)
        classes, runtime = len(self.images.classes), self.store.runtime
        if self.kind == "knn":
            return self._tested(KnnCandidates(classes), learned)
        fit = LinearCandidates.of(classes, learned.rows, learned.unlabeled_rows)
        if self.kind == "linear":
            return self._tested(fit, learned)
        tuned = finetune_classifier(
            self.store.model, learned, fit, self.folder, partial(self._epochs, pace), runtime, seed=self.seed
        )
        chosen, shift = self._balanced(tuned.chosen, tuned.learned)
        figures = held_out_figures(tuned.learned, chosen, shift, remarks=tuned.remarks)
        return FittedClassifier(tuned.model, chosen, tuned.learned, figures, tuned.log)

    def _tested(self, fit: LinearCandidates | KnnCandidates, learned: LabeledFeatures) -> FittedClassifier:
        """A head on frozen features."""
        images, logger = learned.images, self.store.runtime.logger
        chosen = choose_head(fit, learned.rows, images.truth, learned.parts, len(images.classes), fit.default, logger)
        unknown: tuple[UnknownFound, ...] = ()
        chosen, shift = self._balanced(chosen, learned)
        if chosen.held.any() and not images.multi_label:
            name, temperature, names = chosen.name, chosen.temperature, images.classes
            rows, truth, parts = learned.rows, images.truth, learned.parts
            unknown = unknown_found(fit, name, rows, truth, parts, names, temperature, logger, shift=shift)
        return FittedClassifier(self.store.model, chosen, learned, held_out_figures(learned, chosen, shift, unknown))

    def _balanced(self, chosen: ChosenHead, learned: LabeledFeatures) -> tuple[ChosenHead, Tensor | None]:
        """The head, as it was or with classes that count alike; and what was added to its logits."""
        if not self.balanced:
            return chosen, None
        shares = torch.tensor(learned.images.counts, dtype=torch.float64)
        if WITH_UNLABELED in chosen.name and self.kind == "linear":
            logits = logits_of(chosen.head, learned.unlabeled_rows)
            shares += logits.double().softmax(dim=1).sum(dim=0)
        shift = balance_shift(shares, chosen.temperature)
        return shifted(chosen, shift), shift

    def _pace(self) -> Pace | None:
        """What a budget is planned with; None without one, and where the epochs are chosen already."""
        if self.limit is None or "epochs" in self.folder.chosen:
            return None
        wanted = [self.images.positions, drawn_unlabeled(self.images, self.kind)]
        if self.kind == "finetune":
            return finetuning_pace(self.limit, self.store, self.images, wanted, self.seed)
        check_embedding(self.limit, self.store, self.images.source, wanted)
        return None

    def _epochs(self, pace: Pace | None, recipe: Recipe, steps: int) -> int:
        """Epochs of fine-tuning: those that ``config.toml`` says, those that the budget pays for, or the recipe's."""
        epochs, why = recipe.epochs, "the published recipe, with at least 320 steps"
        if type(before := self.folder.chosen.get("epochs")) is int:
            return before
        if self.limit is not None and pace is not None:
            epochs = affordable_epochs(self.limit, pace, self.images, recipe, steps)
            why = f"what --time {format_minutes(self.limit.minutes)} pays for: {format_number(1000 * pace.step)} ms a step"
        self.folder.write_config(epochs=epochs, epochs_reason=why)
        self.store.runtime.logger.info(f"{epochs} epochs, {epochs * steps:,} steps ({why})")
        return epochs


def held_out_figures(
    learned: LabeledFeatures,
    chosen: ChosenHead,
    shift: Float[Tensor, " c"] | None = None,
    unknown: tuple[UnknownFound, ...] = (),
    *,
    remarks: tuple[str, ...] = (),
) -> ClassifierFigures:
    """Calibrated answers for the held-out images, and what else is known of a head.

    Args:
        learned: the images.
        chosen: the head.
        shift: what was added to its logits, so that classes count alike; None: nothing.
        unknown: of each class that was left out of training.
        remarks: further sentences for people.
    """
    images, held = learned.images, chosen.held
    several = images.multi_label
    logits, truth = chosen.logits[held], images.truth[held]
    weights = None if shift is None else equal_weights(truth)
    answers = Answers(probabilities(logits, chosen.temperature, multi_label=several), truth, weights)
    count = len(set(learned.parts[held].tolist()))
    title = "held out in five parts, one after another" if count > 1 else "held out, a fifth"
    uncalibrated = guesses = None
    if len(truth):
        plain = logits if shift is None else logits - shift + shift / chosen.temperature
        uncalibrated = Answers(probabilities(plain, 1.0, multi_label=several), truth, weights).calibration_error()
    if len(learned.unlabeled):
        guesses = probabilities(logits_of(chosen.head, learned.unlabeled_rows), chosen.temperature).numpy()
    return ClassifierFigures(
        title,
        images.classes,
        answers,
        images.positions[held.numpy()],
        unknown_threshold(answers.confidence) if len(truth) and not several else None,
        uncalibrated,
        unknown,
        learned.unlabeled,
        guesses,
        (*remarks, *images.remarks),
    )
