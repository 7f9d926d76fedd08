from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from coterie.data.sources.source import Subset
from coterie.data.sources.source import labels as labels_of
from coterie.errors import UserError
from coterie.evaluation.labeled_data import Labeled
from coterie.evaluation.probes import supervised
from coterie.evaluation.probes.few_labels import labeled_subset, parse_labels
from coterie.evaluation.probes.finetuning import (
    FROM_SCRATCH,
    ONE_PERCENT,
    TEN_PERCENT,
    finetune,
    gentle,
    published_recipe,
)
from coterie.evaluation.probes.supervised import Recipe, train_classifier
from coterie.models.backbone import BackboneConfig, build_backbone
from tests.evaluation.probes.test_supervised import EYE, SHORT, Heard, digest, network, shapes

__all__ = ["shapes"]  # a fixture

BRIEF = Recipe(0.02, 0.1, epochs=1, batch_size=8)


def new() -> nn.Module:
    return build_backbone(BackboneConfig("resnet18", width=0.125, stem="small"), 16)


def test_a_good_start_beats_new_weights_with_the_same_labels(shapes: Labeled) -> None:
    pretrained = network()
    train_classifier(pretrained, shapes, EYE, SHORT)
    before, heard = digest(pretrained), Heard()
    figures = finetune(pretrained, shapes, EYE, build=new, labels="4", recipe=BRIEF, scratch=BRIEF, logger=heard)
    assert digest(pretrained) == before
    assert figures["labels"] == 12
    assert figures["top1"] > 80
    assert figures["top1"] > figures["scratch_top1"] + 20
    names = {"top1", "top5", "mean_per_class"}
    assert figures.keys() == names | {f"scratch_{name}" for name in names} | {"labels"}
    assert [what for _, what in heard.tracked] == [
        "fine-tuning on 12 labels",
        "asking the test images",
        "from new weights on 12 labels",
        "asking the test images",
    ]


def test_the_baseline_has_the_same_images_and_weights_drawn_from_the_seed(shapes: Labeled) -> None:
    torch.manual_seed(9)
    first = finetune(network(), shapes, EYE, build=new, labels="50%", recipe=BRIEF, scratch=BRIEF, seed=5)
    known = labels_of(shapes.train)
    places = labeled_subset(known, share=0.5, seed=5).positions
    part = Labeled(Subset(shapes.train, places, known[places], shapes.train.classes), shapes.test)
    by_hand = train_classifier(network(5), part, EYE, BRIEF, seed=5)
    assert {name: first[f"scratch_{name}"] for name in by_hand} == by_hand
    torch.manual_seed(10)
    assert finetune(network(), shapes, EYE, build=new, labels="50%", recipe=BRIEF, scratch=BRIEF, seed=5) == first


def test_classes_that_are_too_small_are_warned_of(shapes: Labeled) -> None:
    heard = Heard()
    finetune(network(), shapes, EYE, build=new, labels="13", recipe=BRIEF, scratch=BRIEF, logger=heard)
    assert heard.warned == ["3 of 3 classes have fewer than 13 labeled images and give all they have"]


@pytest.mark.parametrize(
    ("labels", "recipe"),
    [
        ("1%", ONE_PERCENT),
        ("2%", ONE_PERCENT),
        ("10%", TEN_PERCENT),
        ("5", ONE_PERCENT),
        ("39", ONE_PERCENT),
        ("40", TEN_PERCENT),
        ("128", TEN_PERCENT),
    ],
)
def test_which_published_recipe(labels: str, recipe: Recipe) -> None:
    assert published_recipe(parse_labels(labels)) == recipe


def test_the_published_recipes() -> None:
    """SwAV, appendix A.4."""
    assert (ONE_PERCENT.backbone_rate, ONE_PERCENT.head_rate) == (0.02, 5)
    assert (TEN_PERCENT.backbone_rate, TEN_PERCENT.head_rate) == (0.01, 0.2)
    for recipe in (ONE_PERCENT, TEN_PERCENT):
        assert (recipe.epochs, recipe.batch_size, recipe.weight_decay, recipe.decay) == (20, 256, 0, "drops")
        assert [recipe.factor(epoch) for epoch in (0, 11, 12, 15, 16, 19)] == pytest.approx(
            [1, 1, 0.2, 0.2, 0.04, 0.04]
        )
    assert FROM_SCRATCH.backbone_rate == FROM_SCRATCH.head_rate


class Ones(nn.Module):
    """Eight features of a given size."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.size = nn.Parameter(torch.tensor(size))

    def forward(self, images: Tensor) -> Tensor:
        return self.size.expand(len(images), 8)


def test_large_features_get_a_lower_rate(shapes: Labeled) -> None:
    assert gentle(ONE_PERCENT, Ones(0.1), shapes, EYE) == ONE_PERCENT
    assert gentle(ONE_PERCENT, Ones(2.0), shapes, EYE) == replace(ONE_PERCENT, head_rate=3 / (2 * 8 * 4))
    assert gentle(ONE_PERCENT, Ones(0.0), shapes, EYE) == ONE_PERCENT
    with pytest.raises(UserError, match="NaN or infinity in 36 of 36 embeddings of TRAIN"):
        gentle(ONE_PERCENT, Ones(float("nan")), shapes, EYE)


def test_the_default_recipe_is_told(shapes: Labeled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervised, "LEAST_STEPS_IN_ALL", 2)  # 320 steps take their time
    heard, places = Heard(), np.array([0, 12, 24])
    few = Labeled(Subset(shapes.train, places, np.arange(3), shapes.train.classes), shapes.test)
    finetune(Ones(2.0), few, EYE, build=lambda: Ones(2.0), labels="1", scratch=BRIEF, logger=heard)
    assert heard.said[0] == (
        "fine-tuning on 3 labels: few images for batches of 256 and 20 epochs: batches of 3, rates times 3/256, 20 epochs"
    )
    assert heard.said[1] == (
        "fine-tuning on 3 labels: the published learning rate of the classifier, 0.0586 for batches of 3, is too high for "
        "features of this size: 0.0469"
    )
    assert heard.tracked[0] == (20, "fine-tuning on 3 labels")
