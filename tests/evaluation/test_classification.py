import pytest
import torch

from coterie.evaluation.classification import Answers, Share, class_figures


def test_wilsons_interval():
    """The values of Brown, Cai & DasGupta 2001 and of scipy's ``proportion_confint``."""
    assert Share(8, 10).interval == pytest.approx((49.016, 94.332), abs=0.001)
    assert Share(0, 10).interval == pytest.approx((0, 27.753), abs=0.001)
    assert Share(10, 10).interval == pytest.approx((72.247, 100), abs=0.001)
    assert Share(0, 0).interval == (0, 100)


def test_figures_of_a_small_confusion():
    chances = torch.tensor([[0.9, 0.1, 0], [0.2, 0.8, 0], [0.6, 0.4, 0], [0, 0.3, 0.7]])
    answers = Answers(chances, torch.tensor([0, 0, 1, 2]))
    assert answers.confusion().tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert answers.accuracy() == Share(2, 4)
    first, second, third = class_figures(answers, ("a", "b", "c"))
    assert (first.recall, first.precision, first.confused) == (Share(1, 2), Share(1, 2), "b")
    assert (second.recall, second.confused) == (Share(0, 1), "a")
    assert third.confused is None
    wanted = (0.1 + 0.8 + 0.6 + 0.3) / 4  # each answer is alone in its bin
    assert answers.calibration_error() == pytest.approx(wanted)
    assert answers.log_losses().exp().reciprocal().tolist() == pytest.approx([0.9, 0.2, 0.4, 0.7])


def test_images_of_several_labels():
    chances = torch.tensor([[0.9, 0.8, 0.1], [0.2, 0.1, 0.6]])
    answers = Answers(chances, torch.tensor([[True, True, False], [True, False, False]]))
    assert answers.accuracy() == Share(1, 2)
    first, _, third = class_figures(answers, ("a", "b", "c"))
    assert (first.recall, first.precision, third.precision) == (Share(1, 2), Share(1, 1), Share(0, 1))
