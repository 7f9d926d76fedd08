from pathlib import Path

import pytest
import torch

import coterie
from coterie.classifier.balance import balance_shift, shifted
from coterie.classifier.calibration import fit_temperature
from coterie.classifier.choose_head import ChosenHead, choose_head, logits_of
from coterie.classifier.classifier_file import open_classifier
from coterie.classifier.folds import folds
from coterie.classifier.heads import KnnHead, linear_head, probabilities
from coterie.classifier.linear_candidates import LinearCandidates
from coterie.evaluation.classification import Answers, equal_weights
from coterie.logger import NullLogger
from tests.classifier.conftest import paint

HERE = {"quiet": True, "device": "cpu", "workers": 0}


@pytest.mark.parametrize("temperature", [1.0, 0.4])
@pytest.mark.parametrize("kind", ["linear", "knn"])
def test_probabilities_are_divided_by_the_frequencies(temperature: float, kind: str):
    rows, labels, shares = torch.randn(30, 5), torch.arange(30) % 3, torch.tensor([60.0, 30.0, 10.0])
    head = linear_head(torch.randn(3, 5), torch.randn(3)) if kind == "linear" else KnnHead(rows, labels, 3)
    logits = logits_of(head, rows)
    chosen = ChosenHead(head, "", temperature, logits, torch.ones(30, dtype=torch.bool), ())
    balanced = shifted(chosen, balance_shift(shares, temperature))
    expected = probabilities(logits, temperature) / shares
    found = probabilities(logits_of(balanced.head, rows), temperature)
    torch.testing.assert_close(found, expected / expected.sum(dim=1, keepdim=True))
    torch.testing.assert_close(balanced.logits, logits_of(balanced.head, rows))


def test_rare_classes_are_found_and_calibrated():
    """Two classes whose clouds overlap, one nine times as frequent, judged where both are equally frequent."""
    means = torch.tensor([[0.0, 0.0], [1.5, 0.0]])

    def draw(first: int, second: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.cat([torch.zeros(first, dtype=torch.long), torch.ones(second, dtype=torch.long)])
        return means[labels] + torch.randn(len(labels), 2), labels

    rows, labels = draw(900, 100)
    fit = LinearCandidates.of(2, rows)
    chosen = choose_head(fit, rows, labels, folds(labels.numpy()), 2, fit.default, NullLogger())
    balanced = shifted(chosen, balance_shift(labels.bincount().double(), chosen.temperature))
    rows, labels = draw(2000, 2000)
    before, after = (
        Answers(probabilities(logits_of(each.head, rows), each.temperature), labels) for each in (chosen, balanced)
    )
    assert after.accuracy().value > before.accuracy().value + 10
    assert after.calibration_error() < 0.04 < 0.1 < before.calibration_error()


def test_equal_weights_make_classes_count_alike():
    truth = torch.tensor([0, 0, 0, 2])
    assert equal_weights(truth).tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])
    chances = torch.tensor([[0.9, 0.05, 0.05]] * 3 + [[0.3, 0.1, 0.6]])
    plain, weighted = Answers(chances, truth), Answers(chances, truth, equal_weights(truth))
    assert plain.calibration_error() == pytest.approx((3 * 0.1 + 0.4) / 4)
    assert weighted.calibration_error() == pytest.approx((0.1 + 0.4) / 2)
    assert fit_temperature(chances.log(), truth) > 0


@pytest.mark.parametrize("kind", ["linear", "knn"])
def test_a_balanced_classifier_is_kept_and_says_so(kind: str, weights: Path, tmp_path: Path):
    uneven = paint(tmp_path / "uneven", 12)
    for path in sorted((uneven / "red").iterdir())[3:]:
        path.unlink()
    natural, balanced = tmp_path / "natural", tmp_path / "balanced"
    coterie.train(weights, uneven, out=natural, classifier=kind, **HERE)
    figures = coterie.train(weights, uneven, out=balanced, classifier=kind, balanced=True, **HERE)
    assert "calibration error, each class counted alike" in str(figures)
    first, second = open_classifier(natural), open_classifier(balanced)
    assert second.about["balanced"] == "yes"
    before = 0.0 if first.head.bias is None else first.head.bias
    shift = (second.head.bias - before) / second.temperature
    expected = -(torch.tensor([12.0, 12.0, 3.0]) / 27).log()
    torch.testing.assert_close(shift, expected, rtol=1e-2, atol=1e-2)
    rows = torch.randn(4, first.head.in_features if kind == "linear" else first.head.voters.shape[1])
    torch.testing.assert_close(second.head(rows), first.head(rows) + shift * second.temperature, rtol=1e-3, atol=1e-2)
    assert "each class counted alike" in str(coterie.evaluate(balanced, uneven, **HERE))
    with pytest.raises(coterie.UserError, match="was begun with balanced none, not True"):
        coterie.train(weights, uneven, out=natural, classifier=kind, balanced=True, **HERE)
