import numpy as np
import pytest
import torch
from torch import Tensor

from coterie.classifier.calibration import fit_temperature, unknown_threshold
from coterie.classifier.choose_head import choose_head, logits_of
from coterie.classifier.folds import folds
from coterie.classifier.heads import linear_head
from coterie.classifier.linear_candidates import LinearCandidates
from coterie.classifier.training_images import copies
from coterie.classifier.unknown import unknown_found
from coterie.evaluation.probes.linear import PENALTIES
from coterie.logger import NullLogger


def clouds(count: int, spread: float = 1.0, classes: int = 3, width: int = 12) -> tuple[Tensor, Tensor]:
    """Features whose classes differ in few directions, with more noise in others."""
    labels = torch.arange(count) % classes
    means = 3 * torch.eye(classes, width)
    noise = torch.randn(count, width) * torch.linspace(spread, 4 * spread, width)
    return means[labels] + noise, labels


def test_temperature_undoes_a_scale():
    logits = torch.randn(4000, 5)
    truth = torch.distributions.Categorical(logits=logits).sample()
    assert fit_temperature(3 * logits, truth) == pytest.approx(3, rel=0.1)
    several = torch.rand(4000, 5) < logits.sigmoid()
    assert fit_temperature(0.5 * logits, several) == pytest.approx(0.5, rel=0.1)


def test_answers_that_are_all_right_do_not_become_certain():
    logits = torch.eye(3)[torch.arange(30) % 3]
    chance = (logits / fit_temperature(logits, torch.arange(30) % 3)).softmax(dim=1).amax()
    assert float(chance) == pytest.approx(31 / 32, abs=0.001)


def test_the_threshold_keeps_what_it_is_to_keep():
    confidence = torch.rand(1000)
    threshold = unknown_threshold(confidence, 0.95)
    assert int((confidence.double() >= threshold).sum()) == 950


def test_parts_are_even_in_each_class_and_copies_stay_together():
    classes = np.repeat([0, 1, 2, 3], [50, 7, 2, 1])
    keys = [f"{number}" for number in range(60)]
    keys[3] = keys[9] = keys[0]
    parts = folds(classes, keys).numpy()
    assert parts[0] == parts[3] == parts[9]
    assert parts[-1] == -1
    assert (parts[:-1] >= 0).all()
    assert np.ptp(np.bincount(parts[:50], minlength=5)) <= 3
    for number in range(3):
        assert len(set(parts[classes == number])) >= 2  # one to train on, whichever is held out
    few = folds(np.repeat([0, 1], 50), most=99).numpy()
    assert set(few) == {-1, 0}
    assert (few == 0).sum() == 20


def test_copies_with_other_labels_are_counted():
    assert copies(["a", "b", "", ""], torch.tensor([0, 1, 0, 1])) is None
    line = copies(["a", "a", "b", "a", "b"], torch.tensor([0, 0, 1, 0, 0]))
    assert line is not None
    assert line.startswith("3 labeled images are copies")
    assert "1 of them have different labels" in line


def test_discriminant_analysis_is_scikit_learns():
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    rows, labels = clouds(60)
    head = LinearCandidates.of(3, rows)(rows, labels)["discriminant analysis, shrinkage 0.3"]
    other = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3, priors=[1 / 3] * 3)
    scores = other.fit(rows.double().numpy(), labels.numpy()).decision_function(rows.double().numpy())
    ours = logits_of(head, rows).double().numpy()
    ours, scores = (each - each.mean(axis=1, keepdims=True) for each in (ours, scores))
    # scikit-learn divides the covariance by n, we by n less the number of classes: nothing but a scale of linear terms
    assert (ours.argmax(axis=1) == scores.argmax(axis=1)).mean() > 0.97
    assert np.corrcoef(ours.ravel(), scores.ravel())[0, 1] > 0.9999


def test_wide_features_get_the_same_regression_as_narrow_ones():
    rows, labels = clouds(20, width=64)
    name = f"logistic regression, penalty {PENALTIES[1]:g}"
    candidates = LinearCandidates.of(3, rows)
    wide = candidates(rows, labels, only=name)[name]
    from coterie.evaluation.probes.logistic_regression import logistic_regression
    from coterie.evaluation.probes.standardize import Standardizer

    standardizer = Standardizer.fit(rows)
    exact = logistic_regression(
        rows, labels, 3, torch.tensor([PENALTIES[1]]), standardizer=standardizer, tolerance=1e-5
    )
    assert torch.allclose(wide.weight, exact.fold_standardizer(standardizer).weights[:, 0], atol=1e-3)


def test_images_without_a_label_help_where_labels_are_few():
    rows, labels = clouds(600, spread=0.8)
    few = torch.cat([(labels == number).nonzero()[:3, 0] for number in range(3)])
    rest = torch.ones(600, dtype=torch.bool).index_fill(0, few, False)
    right = []
    for unlabeled in (None, rows[rest]):
        fit = LinearCandidates.of(3, rows[few], unlabeled)
        parts = folds(labels[few].numpy())
        chosen = choose_head(fit, rows[few], labels[few], parts, 3, fit.default, NullLogger())
        right.append(float((logits_of(chosen.head, rows[rest]).argmax(dim=1) == labels[rest]).double().mean()))
    assert right[1] > right[0] + 0.02


def test_the_default_is_replaced_only_by_what_is_clearly_better():
    worse, near = (torch.eye(3, 12) + much * torch.randn(3, 12) for much in (0.3, 0.02))

    def chosen(count, default):
        rows, labels = clouds(count)

        def fit(rows, truth, only=None):
            weights = {"right": torch.eye(3, 12), "near": near, "worse": worse}
            return {name: linear_head(each, torch.zeros(3)) for name, each in weights.items() if only in (None, name)}

        return choose_head(fit, rows, labels, folds(labels.numpy()), 3, default, NullLogger()).name

    assert chosen(600, "right") == "right"
    assert chosen(600, "worse") in ("right", "near")
    kept = sum(chosen(12, "near") == "near" for _ in range(20))
    assert kept >= 13  # by the lowest log loss alone, about half


def test_each_of_several_labels_is_a_logistic_regression_of_its_own():
    rows, labels = clouds(90)
    truth = torch.stack([labels == 0, labels != 1, labels == 2], dim=1)
    name = f"logistic regression, penalty {PENALTIES[2]:g}"
    several = LinearCandidates.of(3, rows)(rows, truth, only=name)[name]
    alone = LinearCandidates.of(2, rows)(rows, truth[:, 1].long(), only=name)[name]
    logits = logits_of(alone, rows)
    assert torch.allclose(logits_of(several, rows)[:, 1], logits[:, 1] - logits[:, 0], atol=1e-4)


def test_a_class_that_was_left_out_is_found_if_it_lies_between_the_others():
    rows, labels = clouds(300, spread=0.2)
    rows[labels == 2] = rows[labels == 2] * 0.1 + torch.tensor([1.5, 1.5] + [0.0] * 10)
    fit = LinearCandidates.of(3, rows)
    found = unknown_found(fit, fit.default, rows, labels, folds(labels.numpy()), ["a", "b", "c"], 1.0, NullLogger())
    assert [each.name for each in found] == ["a", "b", "c"]
    assert found[2].found.value > 90
    assert found[2].found.count == 100
