"""What the page of a run says first: how good the features are where labels exist, and else what is known without labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

from coterie.embedding.embed import Embeddings
from coterie.evaluation.evaluation_file import evaluations
from coterie.evaluation.low_rank import is_low_rank
from coterie.evaluation.model_selection import MIN_STABILITY
from coterie.evaluation.neighbors import nearest, vote
from coterie.evaluation.results import RAW_PIXELS, UNTRAINED, leading_figures
from coterie.formatting import is_number
from coterie.reporting.curves import label_free_log
from coterie.training.monitor import LARGEST_LOSS, SMALLEST_SPREAD

MAX_NAMED = 2
"""So many probes are named first, in the order of :data:`coterie.evaluation.results.LEADING`."""
NEIGHBORS, TEMPERATURE = 20, 0.07
FEWEST_NEIGHBORS = 5
"""Fewer labeled images than this and one more say nothing about accuracy."""


@dataclass(frozen=True)
class SampleAccuracy:
    """How well the labels of sampled images are predicted from the labels of their neighbors in the sample.

    Attributes:
        knn: accuracy in percent; each image is classified by the others.
        chance: accuracy of always guessing the most frequent class, in percent.
        images: number of labeled images.
    """

    knn: float
    chance: float
    images: int


@dataclass(frozen=True)
class Verdict:
    """What the page says first.

    Attributes:
        answer: a sentence or two.
        details: further sentences.
    """

    answer: str
    details: tuple[str, ...] = ()


def verdict(
    log: Sequence[Mapping[str, Any]],
    evaluation: Mapping[str, Any],
    *,
    sample: SampleAccuracy | None = None,
    chance: float | None = None,
    width: int = 0,
    images: int = 0,
    warned: bool = False,
) -> Verdict:
    """Say how the run went.

    The accuracy comes from ``coterie evaluate``, or else from the latest probe during training, or else from the labels of the
    images themselves.

    Args:
        log: the lines of ``metrics.jsonl``.
        evaluation: content of ``evaluation.json``.
        sample: accuracy on the labels of the run's own images, if they have any.
        chance: accuracy of always guessing the most frequent class of the probe during training, in percent.
        width: number of features.
        images: number of images on which the label-free metrics are measured.
        warned: whether the page shows a warning about training that the log does not hold.
    """
    last = next((line for line in reversed(log) if "loss" in line), None)
    accuracy = _evaluated(evaluation) or _probed(log, chance) or _sampled(sample)
    if last is None:
        return Verdict(accuracy, ("Nothing was logged.",)) if accuracy else Verdict("Nothing was logged.")
    training, looks = _training(last), label_free_log(log)
    if warned or any("warning" in line for line in log):
        trouble = " See the warning below."
    elif last["spread"] < SMALLEST_SPREAD or last["loss_over_ln_k"] > LARGEST_LOSS:
        trouble = " It has not learned to tell images apart yet."
    else:
        trouble, training = "", f"No sign of collapse: {training[:1].lower()}{training[1:]}"
    stability = _stability(looks)
    known = " ".join(stability + _rank(looks, width, images, "They" if stability else "The features"))
    if accuracy:
        how = () if sample is None or accuracy != _sampled(sample) else (_how_sampled(sample),)
        return Verdict(accuracy + trouble, (*how, *([known] if known else []), training))
    limits = (
        "That says whether training has settled, not how good the features are: only labels tell (coterie evaluate)."
    )
    if not known:
        return Verdict(training + trouble)
    return Verdict(known + trouble, (limits, training))


def sample_accuracy(embeddings: Embeddings) -> SampleAccuracy | None:
    """Classify each labeled image by its 20 nearest neighbors among the others; None with too few images or one class."""
    kept = (embeddings.labels >= 0) & embeddings.rows.isfinite().all(dim=1)
    labels, unit = embeddings.labels[kept], F.normalize(embeddings.rows[kept], dim=1)
    if len(labels) <= FEWEST_NEIGHBORS or len(torch.unique(labels)) < 2:
        return None
    similarities, positions = nearest(unit, unit, NEIGHBORS + 1)
    own = positions == torch.arange(len(unit))[:, None]
    own[~own.any(dim=1), -1] = True  # copies of an image may have displaced it
    shape = (len(unit), positions.shape[1] - 1)
    voters = labels[positions[~own].view(shape)]
    guesses = vote(similarities[~own].view(shape), voters, int(labels.max()) + 1, TEMPERATURE).argmax(dim=1)
    return SampleAccuracy(100 * float((guesses == labels).double().mean()), chance_accuracy(labels), len(labels))


def chance_accuracy(labels: Int[Tensor, " n"]) -> float:
    """The accuracy of always guessing the most frequent class, in percent."""
    return 100 * float(labels.bincount().max()) / len(labels)


def _evaluated(evaluation: Mapping[str, Any]) -> str | None:
    """The latest figure of each probe, and what raw pixels and the untrained network reach; else those of a transfer."""
    found = _named(evaluation)
    if found:
        return f"Accuracy on labeled images: {found}.{_baselines(evaluation)}"
    for each in evaluations(evaluation):
        if each.set is not None and (found := _named(each.figures)):
            return f"Accuracy on the labeled images of {each.set}: {found}."
    return None


def _baselines(evaluation: Mapping[str, Any]) -> str:
    for each in reversed(evaluations(evaluation)):
        for leading in leading_figures(each.figures) if each.set is None else ():
            others = {
                name: value
                for name, figures in each.baselines.items()
                if (value := leading_figures(figures).get(leading)) is not None
            }
            if others.keys() >= {RAW_PIXELS, UNTRAINED}:
                return (
                    f" With {leading.name}, raw pixels reach {others[RAW_PIXELS]:.1f} % and the untrained network "
                    f"{others[UNTRAINED]:.1f} %."
                )
    return ""


def _probed(log: Sequence[Mapping[str, Any]], chance: float | None) -> str | None:
    """The latest probe during training, and the first one if there were several."""
    lines = [line for line in log if _named(line)]
    if not lines:
        return None
    first, found = _figures(lines[0]), _figures(lines[-1])
    name, value = found[0]
    before = dict(first).get(name)
    known = [f"{before:.1f} % after epoch {_epoch(lines[0])}"] if len(lines) > 1 and before is not None else []
    known += [f"chance {chance:.1f} %"] if chance is not None else []
    beside = f" ({', '.join(known)})" if known else ""
    rest = "".join(f", {other} {figure:.1f} %" for other, figure in found[1:])
    return f"Accuracy on labeled images: {name} {value:.1f} %{beside}{rest}."


def _epoch(line: Mapping[str, Any]) -> str:
    return f"{line['epoch'] + 1:g}" if is_number(line.get("epoch")) else "?"


def _sampled(sample: SampleAccuracy | None) -> str | None:
    if sample is None:
        return None
    return f"Accuracy on the images' own labels: kNN {sample.knn:.1f} % (chance {sample.chance:.1f} %)."


def _how_sampled(sample: SampleAccuracy) -> str:
    return (
        f"Each of {sample.images:,} images was classified by its {NEIGHBORS} nearest neighbors among the others. "
        "Training saw these images, but no labels; images that it did not see give a stricter figure (coterie evaluate)."
    )


def _figures(probes: Mapping[str, Any]) -> list[tuple[str, float]]:
    """(name, percent) of the leading probes among ``{probe: {metric: value}}``."""
    return [(each.name, value) for each, value in leading_figures(probes).items()][:MAX_NAMED]


def _named(probes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:.1f} %" for name, value in _figures(probes))


def _training(line: Mapping[str, Any]) -> str:
    share, added = f"{line['loss_over_ln_k']:.2f} of ln K", line.get("regularization")
    if is_number(added):  # ln K is a measure of the predictions' part only
        share = f"predictions {share}, regularizer {added:.2f}"
    return (
        f"Loss {line['loss']:.2f} ({share}), {line['groups_used']} of {line['groups']} groups used, "
        f"spread {line['spread']:.2f}."
    )


def _stability(looks: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Whether the neighbors of images still change from snapshot to snapshot; nothing where that is not known."""
    share = looks[-1].get("stability") if looks else None
    if not is_number(share):
        return ()
    if share >= MIN_STABILITY:
        return (
            f"The features have settled: {100 * share:.0f} % of an image's nearest neighbors are those of the snapshot before.",
        )
    return (
        f"The features are still changing: {100 * share:.0f} % of an image's nearest neighbors are those of the snapshot "
        "before, so longer training would change them further.",
    )


def _rank(looks: Sequence[Mapping[str, Any]], width: int, images: int, subject: str) -> tuple[str, ...]:
    """Over how many directions the features spread; nothing where that is not known."""
    rank = looks[-1].get("effective_rank") if looks else None
    if not is_number(rank) or not width:
        return ()
    if is_low_rank(rank, width, images):
        return (f"{subject} vary along only about {rank:.1f} of {width} directions.",)
    return (f"{subject} spread over about {rank:.0f} of {width} directions.",)
