"""Fine-tunes a whole network on labeled images, from the linear classifier of its frozen features."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from coterie.classifier.calibration import fit_temperature
from coterie.classifier.choose_head import ChosenHead, Trial, choose_head, logits_of
from coterie.classifier.folds import folds
from coterie.classifier.heads import linear_head, probabilities
from coterie.classifier.labeled_features import LabeledFeatures
from coterie.classifier.linear_candidates import LinearCandidates
from coterie.classifier.training_images import Truth
from coterie.config.hardware import Runtime
from coterie.data.sources.source import Subset, random_positions
from coterie.embedding.embed import embed_source
from coterie.evaluation.classification import Answers
from coterie.evaluation.probes.classifier_training import ClassifierTraining, diverged, enough_memory, seeded
from coterie.evaluation.probes.few_labels import FewLabels
from coterie.evaluation.probes.finetuning import limit_by_features, published_recipe
from coterie.evaluation.probes.recipe import MIN_BATCH_SIZE, Recipe
from coterie.evaluation.probes.supervised import crop_loader
from coterie.exporting.model import Model
from coterie.logger import NullLogger
from coterie.models.layers import batch_norms
from coterie.training.trained_folder import TrainedFolder
from coterie.training.training_checkpoints import TrainingCheckpoints

GUESSED = 2_000
"""Images without a label whose class is guessed, of which the page shows those that are hardest to decide."""
LOOKS = 20
"""Lines about epochs in the log, at least, if there are so many."""
UNKNOWN = (
    "how many images of an unknown class fall below the threshold is not measured: it would take a network that is "
    "fine-tuned without the class"
)


@dataclass(frozen=True)
class FineTuned:
    """A network that was fine-tuned, with its head.

    Attributes:
        model: with the network as it is now.
        chosen: the head, and logits of the images that were held out of both.
        learned: images and features; those without a label are embedded by this network.
        remarks: sentences for people.
        log: a line for each epoch.
    """

    model: Model
    chosen: ChosenHead
    learned: LabeledFeatures
    remarks: tuple[str, ...]
    log: tuple[dict[str, Any], ...]


def finetune_classifier(
    model: Model,
    learned: LabeledFeatures,
    fit: LinearCandidates,
    folder: TrainedFolder,
    choose_epochs: Callable[[Recipe, int], int],
    runtime: Runtime,
    *,
    seed: int,
) -> FineTuned:
    """Train a copy of the network and a linear layer on four fifths of the labeled images.

    The layer starts from the linear classifier of the frozen features of these images, which is chosen as one that is kept is
    (Kumar et al. 2022, arXiv 2202.10054, section 4): from random weights it would distort the features before it knows the
    classes. Batch norms keep the statistics with which these features were computed: small batches of augmented images have
    others, and the start would be lost. The other fifth takes part in no choice: it gives figures, temperature and threshold,
    and these are of the very network that is kept.

    Args:
        model: the network, on the runtime's device; it stays as it is.
        learned: the images with their frozen features.
        fit: fits linear classifiers.
        folder: keeps the state of the training and its log.
        choose_epochs: gives the epochs of a recipe, from it and the steps of an epoch.
        runtime: where and how to compute; its logger receives messages and progress.
        seed: for the order of the images, the crops, and dropout.

    Raises:
        UserError: the loss is not finite, or there is too little memory; or the state cannot be kept.
    """
    images, out = learned.images, learned.parts >= 0
    start = frozen_head(learned, fit, runtime, seed)
    recipe = finetuning_recipe(images.counts, int((~out).sum()))
    recipe = limit_by_features(recipe, learned.rows[~out], len(images.classes))
    recipe = replace(recipe, epochs=choose_epochs(recipe, int((~out).sum()) // recipe.batch_size))
    network, head = copy.deepcopy(model.network).to(runtime.device), _calibrated(start).to(runtime.device)
    trained = Subset(images.source, images.positions[(~out).numpy()])
    loader = crop_loader(trained, model.preprocessing, recipe, seed=seed, runtime=runtime)
    truth, what = images.truth[~out].to(runtime.device), f"fine-tuning on {len(trained)} labels"
    tuned = replace(model, network=network)
    with enough_memory(recipe, model.preprocessing), seeded(seed, runtime.device):
        frozen = batch_norms(network)
        training = ClassifierTraining(
            network, head, loader, truth, recipe, runtime, frozen=frozen, seed=seed, what=what
        )
        records = _train(training, tuned, learned, folder)
    logits, held = _held_out(tuned, head, learned, runtime)
    if not logits.isfinite().all():
        raise diverged(recipe, "after the last epoch")
    name, trials = f"fine-tuned for {recipe.epochs} epochs, from {start.name}", list[Trial]()
    if held.any():
        before = logits_of(start.head, learned.rows[held])
        trials = [
            _trial(f"frozen: {start.name}", before, images.truth[held]),
            _trial(name, logits[held], images.truth[held]),
        ]
    temperature = fit_temperature(logits[held], images.truth[held])
    chosen = ChosenHead(_on_cpu(head), name, temperature, logits, held, tuple(trials))
    guessed = _with_guesses(tuned, learned, runtime)
    return FineTuned(tuned, chosen, guessed, _remarks(trials, images.multi_label), tuple(records))


def frozen_head(learned: LabeledFeatures, fit: LinearCandidates, runtime: Runtime, seed: int) -> ChosenHead:
    """The linear classifier of the frozen features of the images that are not held out.

    Args:
        learned: the images.
        fit: fits the candidates.
        runtime: its logger receives progress.
        seed: for the parts by which one is chosen.
    """
    images, inside = learned.images, learned.parts < 0
    places = inside.nonzero()[:, 0].tolist()
    parts = folds(images.strata[inside.numpy()], [learned.keys[place] for place in places], seed=seed)
    rows, truth = learned.rows[inside], images.truth[inside]
    return choose_head(fit, rows, truth, parts, len(images.classes), fit.default, runtime.logger)


def finetuning_recipe(counts: list[int], images: int) -> Recipe:
    """The published recipe for so many labels, adapted to few images; the layer, which is fitted, has the network's rate.

    Rates do not grow with batches beyond the smallest: where batch norms keep their statistics, nothing holds a network that a
    high rate has set off (docs/log.md).

    Args:
        counts: labeled images of each class.
        images: that are trained on.
    """
    published = published_recipe(FewLabels(per_class=max(1, sum(counts) // len(counts))))
    rate = published.with_batch_size(MIN_BATCH_SIZE).backbone_lr
    return replace(published.adapted_to(images), backbone_lr=rate, head_lr=rate)


def _calibrated(start: ChosenHead) -> nn.Linear:
    """The head whose logits are divided by its temperature, ready to be trained."""
    assert isinstance(start.head, nn.Linear)
    scaled = linear_head(start.head.weight / start.temperature, start.head.bias / start.temperature)
    return scaled.requires_grad_(True)


def _train(
    training: ClassifierTraining, tuned: Model, learned: LabeledFeatures, folder: TrainedFolder
) -> list[dict[str, Any]]:
    """Train to the end, from wherever an earlier call was stopped; the log gets lines about epochs."""
    quiet = replace(training.runtime, logger=NullLogger())
    checkpoints = TrainingCheckpoints(folder, training)

    def after_epoch(epoch: int, loss: float) -> None:
        epochs = training.recipe.epochs
        if epoch % max(1, epochs // LOOKS) and epoch < epochs:
            return
        logits, held = _held_out(tuned, training.head, learned, quiet)
        record: dict[str, Any] = {"step": training.done, "epoch": epoch, "loss": loss}
        if held.any():
            right = Answers(logits[held], learned.images.truth[held]).accuracy()
            record["held_out_top1"] = right.value
        checkpoints.log(record)

    checkpoints.resume(training.runtime.logger)
    with checkpoints.stopping_on_signals():
        training.run(after_step=checkpoints.after_step, after_epoch=after_epoch)
    checkpoints.save()
    tuned.network.eval()
    return checkpoints.records


def _held_out(
    tuned: Model, head: nn.Linear, learned: LabeledFeatures, runtime: Runtime
) -> tuple[Float[Tensor, "n c"], Tensor]:
    """Logits of the held-out images, and which these are."""
    logits, held = torch.zeros(len(learned.parts), head.out_features), learned.parts >= 0
    if held.any():
        images = learned.images
        source = Subset(images.source, images.positions[held.numpy()])
        found = embed_source(
            tuned.network.eval(), source, tuned.preprocessing, runtime, what="embedding held-out images"
        )
        places = held.nonzero()[:, 0][torch.from_numpy(found.index)]
        logits[places] = logits_of(_on_cpu(head), found.rows)
        held = torch.zeros_like(held).index_fill(0, places, True)
    return logits, held


def _on_cpu(head: nn.Linear) -> nn.Linear:
    return linear_head(head.weight, head.bias).cpu()


def _trial(name: str, logits: Float[Tensor, "m c"], truth: Truth) -> Trial:
    chances = probabilities(logits, fit_temperature(logits, truth), multi_label=truth.ndim == 2)
    answers = Answers(chances, truth)
    return Trial(name, float(answers.log_losses().mean()), answers.accuracy().value)


def _with_guesses(tuned: Model, learned: LabeledFeatures, runtime: Runtime) -> LabeledFeatures:
    """Some of the images without a label, embedded by the tuned network."""
    drawn = learned.unlabeled[random_positions(GUESSED, len(learned.unlabeled))]
    if not len(drawn):
        return learned
    source = Subset(learned.images.source, drawn)
    found = embed_source(tuned.network, source, tuned.preprocessing, runtime, what="embedding unlabeled images")
    return replace(learned, unlabeled=np.asarray(drawn[found.index]), unlabeled_rows=found.rows)


def _remarks(trials: list[Trial], several: bool) -> tuple[str, ...]:
    if not trials:
        return ()
    frozen, tuned = trials
    what = f"a linear layer on frozen features: {frozen.top1:.1f} % right of the same images, log loss {frozen.log_loss:.3f}"
    gain = tuned.top1 - frozen.top1
    if gain > 0:
        says = f"fine-tuning gains {gain:.1f} points ({what}; fine-tuned {tuned.log_loss:.3f})"
    else:
        says = f"fine-tuning gains nothing here ({what}; fine-tuned {tuned.log_loss:.3f}): --classifier linear takes seconds"
    return (says,) if several else (says, UNKNOWN)
