"""What the page of a run says first."""

import numpy as np
import pytest
import torch

from coterie.embedding.embed import Embeddings
from coterie.reporting.verdict import SampleAccuracy, sample_accuracy, verdict

HEALTHY = {
    "step": 99,
    "epoch": 9,
    "loss": 2.5,
    "loss_over_ln_k": 0.54,
    "groups_used": 99,
    "groups": 100,
    "spread": 0.9,
}
KNN = "k20_t0.07_top1"


def look(step: int = 99, **figures: float) -> dict:
    return {"step": step, "epoch": 9, "label_free": figures, "snapshot": "snapshots/epoch-0010.safetensors"}


def test_labels_lead_wherever_they_come_from() -> None:
    sample = SampleAccuracy(57.14, 5.56, 2000)
    probes = [{"step": 9, "epoch": 0, "knn": {KNN: 30.62}}, {"step": 99, "epoch": 9, "knn": {KNN: 84.06}}]
    evaluation = {"knn": {KNN: 86.0, "k1_t0.07_top1": 80.0}, "linear": {"top1": 88.04}, "svm": {"map": 1.0}}
    log = [HEALTHY, look(effective_rank=20.0, stability=0.8)]
    found = verdict(log, {}, sample=sample, width=128, images=1000)
    assert found.answer == "Accuracy on the images' own labels: kNN 57.1 % (chance 5.6 %)."
    assert found.details == (
        "Each of 2,000 images was classified by its 20 nearest neighbors among the others. Training saw these images, but no "
        "labels; images that it did not see give a stricter figure (coterie evaluate).",
        "The features have settled: 80 % of an image's nearest neighbors are those of the snapshot before. They spread over "
        "about 20 of 128 directions.",
        "No sign of collapse: loss 2.50 (0.54 of ln K), 99 of 100 groups used, spread 0.90.",
    )
    log = [*log, *probes]
    assert verdict(log, {}, sample=sample, chance=10.0).answer == (
        "Accuracy on labeled images: kNN 84.1 % (30.6 % after epoch 1, chance 10.0 %)."
    )
    assert verdict([HEALTHY, probes[1]], {}).answer == "Accuracy on labeled images: kNN 84.1 %."
    assert verdict(log, evaluation, sample=sample, chance=10.0).answer == (
        "Accuracy on labeled images: kNN 86.0 %, linear classifier 88.0 %."
    )
    transfer = {"transfer": {"birds": {"linear_top1": 61.0}, "cars": {"linear_top1": 44.0}}}
    assert verdict([HEALTHY], transfer).answer == "Accuracy on the labeled images of birds: linear classifier 61.0 %."


def test_without_labels_stability_and_rank_are_put_in_words() -> None:
    settled = verdict([HEALTHY, look(effective_rank=20.4, stability=0.8)], {}, width=128, images=1000)
    assert settled.answer == (
        "The features have settled: 80 % of an image's nearest neighbors are those of the snapshot before. They spread over "
        "about 20 of 128 directions."
    )
    assert settled.details[0].startswith("That says whether training has settled, not how good the features are")
    moving = verdict([HEALTHY, look(effective_rank=20.4, stability=0.31)], {}, width=128, images=1000)
    assert "still changing: 31 % of an image's" in moving.answer
    assert "longer training would change them further" in moving.answer
    first = verdict([HEALTHY, look(effective_rank=20.4)], {}, width=128, images=1000)
    assert first.answer == "They spread over about 20 of 128 directions.".replace("They", "The features")
    assert verdict([HEALTHY], {}).answer.startswith("No sign of collapse: loss 2.50 (0.54 of ln K)")
    regularized = verdict([HEALTHY | {"regularization": 0.4}], {}).answer
    assert regularized.startswith(
        "No sign of collapse: loss 2.50 (predictions 0.54 of ln K, regularizer 0.40), 99 of 100"
    )
    assert verdict([], {}).answer == "Nothing was logged."


def test_no_run_that_was_warned_of_is_called_free_of_collapse() -> None:
    low = look(effective_rank=1.2, stability=0.8)
    for log, warned in (([HEALTHY, low | {"warning": "few directions"}], False), ([HEALTHY, low], True)):
        for evaluation in ({}, {"linear": {"top1": 88.0}}):
            found = verdict(log, evaluation, width=128, images=1000, warned=warned)
            assert "See the warning below." in found.answer
            assert "along only about 1.2 of 128 directions" in " ".join((found.answer, *found.details))
            assert "No sign of collapse" not in " ".join((found.answer, *found.details))
    one_point = verdict([HEALTHY | {"spread": 0.05}], {"knn": {KNN: 12.0}})
    assert one_point.answer == "Accuracy on labeled images: kNN 12.0 %. It has not learned to tell images apart yet."
    assert "No sign of collapse" not in " ".join(one_point.details)


def embeddings(rows: torch.Tensor, labels: list[int]) -> Embeddings:
    return Embeddings(np.arange(len(rows)), rows, torch.tensor(labels), ())


def test_sampled_images_are_classified_by_the_others() -> None:
    rows = torch.randn(60, 8, generator=torch.Generator().manual_seed(0)) * 0.1
    labels = [number % 3 for number in range(60)]
    for row, label in zip(rows, labels, strict=True):
        row[label] += 3
    found = sample_accuracy(embeddings(rows, labels))
    assert found is not None
    assert (found.knn, found.images) == (100.0, 60)
    assert found.chance == pytest.approx(100 / 3)
    random = torch.randn(400, 8, generator=torch.Generator().manual_seed(1))  # an image must not vote for itself
    chance = sample_accuracy(embeddings(random, [number % 4 for number in range(400)]))
    assert chance is not None
    assert 15 < chance.knn < 35
    copies = sample_accuracy(embeddings(torch.ones(50, 4), [0, 1] * 25))
    assert copies is not None
    assert 0 <= copies.knn <= 100


def test_images_without_labels_or_with_one_class_have_no_accuracy() -> None:
    rows = torch.randn(30, 4)
    assert sample_accuracy(embeddings(rows, [-1] * 30)) is None
    assert sample_accuracy(embeddings(rows, [2] * 30)) is None
    assert sample_accuracy(embeddings(rows, [0, 1, 0, 1, 0] + [-1] * 25)) is None
    rows[0] = torch.nan
    found = sample_accuracy(embeddings(rows, [0, 1] * 10 + [-1] * 10))
    assert found is not None
    assert found.images == 19
