"""Chooses a head among candidates by the log loss of images that were held out, and fits it to all of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from coterie.classifier.calibration import fit_temperature
from coterie.classifier.heads import Head, KnnHead, probabilities
from coterie.classifier.training_images import Truth
from coterie.errors import UserError
from coterie.evaluation.classification import Answers
from coterie.grouping.chunks import chunked
from coterie.logger import Logger
from coterie.signals import check_interrupted

Candidates = Callable[..., Mapping[str, Head]]
"""``(rows, truth, only=None)``: fits heads to features and labels, each under a name; ``only`` asks for one."""


@dataclass(frozen=True)
class Trial:
    """How good a candidate is on held-out images.

    Attributes:
        name: of the candidate.
        log_loss: mean cross-entropy in nats, at the best temperature.
        top1: share of the images whose most probable class is right, in percent.
    """

    name: str
    log_loss: float
    top1: float


@dataclass(frozen=True)
class ChosenHead:
    """The head that was chosen.

    Attributes:
        head: fitted to all images.
        name: of the candidate.
        temperature: of its logits.
        logits: of each image by a head that was not trained on it; only those in ``held`` count.
        held: whether an image was ever held out.
        trials: all candidates.
    """

    head: Head
    name: str
    temperature: float
    logits: Float[Tensor, "n c"]
    held: Bool[Tensor, " n"]
    trials: tuple[Trial, ...]


def choose_head(
    fit: Candidates,
    rows: Float[Tensor, "n d"],
    truth: Truth,
    parts: Int[Tensor, " n"],
    classes: int,
    default: str,
    logger: Logger,
) -> ChosenHead:
    """Choose by cross-validation: the default, unless another has a log loss that is lower by more than a standard error.

    The best of many candidates on few images is often best by chance; a default that is good for few labels is not then
    replaced, while with many labels the standard error is small.

    Args:
        fit: fits the candidates.
        rows: features of the images.
        truth: their classes.
        parts: of :func:`coterie.classifier.folds.folds`.
        classes: number of classes.
        default: the candidate where nothing can be held out, or none is better.
        logger: receives progress.

    Raises:
        UserError: no candidate gives finite logits.
    """
    held, numbers = parts >= 0, sorted(set(parts[parts >= 0].tolist()))
    found: dict[str, Tensor] = {}
    for number in logger.progress(numbers, len(numbers), "cross-validation" if len(numbers) > 1 else "held-out part"):
        check_interrupted()
        out = parts == number
        for name, head in fit(rows[~out], truth[~out]).items():
            found.setdefault(name, torch.zeros(len(rows), classes))[out] = logits_of(head, rows[out])
    if not found:
        head = fit(rows, truth, only=default)[default]
        return ChosenHead(head, default, 1.0, torch.zeros(len(rows), classes), held, ())
    trials, temperatures, losses = [], dict[str, float](), dict[str, Tensor]()
    for name, logits in found.items():
        if logits.isfinite().all():
            temperatures[name] = fit_temperature(logits[held], truth[held])
            chances = probabilities(logits[held], temperatures[name], multi_label=truth.ndim == 2)
            answers = Answers(chances, truth[held])
            losses[name] = answers.log_losses()
            trials.append(Trial(name, float(losses[name].mean()), answers.accuracy().value))
    if not trials:
        raise UserError("no classifier could be fitted: the features of this MODEL are not finite, or too large")
    best = min(trials, key=lambda each: each.log_loss).name
    if default in losses:
        gain = losses[default] - losses[best]
        if float(gain.mean()) <= float(gain.std(correction=0)) / len(gain) ** 0.5:
            best = default
    head = fit(rows, truth, only=best)[best]
    return ChosenHead(head, best, temperatures[best], found[best], held, tuple(trials))


@torch.no_grad()
def logits_of(head: Head, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
    """The logits of features, in chunks of bounded memory, in float32 on the CPU."""
    width = len(head.voters) if isinstance(head, KnnHead) else head.out_features
    return torch.cat([head(part).float().cpu() for part in chunked(rows, max(width, rows.shape[1]))])
