from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from coterie.config.hardware import Runtime
from coterie.data.sources.source import Subset
from coterie.data.sources.source import labels as labels_of
from coterie.errors import UserError
from coterie.evaluation.labeled_data import LabeledPair
from coterie.evaluation.probes import recipe as recipes
from coterie.evaluation.probes.few_labels import FewLabels, labeled_subset
from coterie.evaluation.probes.finetuning import (
    FROM_SCRATCH,
    ONE_PERCENT,
    TEN_PERCENT,
    finetune,
    limit_head_lr,
    published_recipe,
)
from coterie.evaluation.probes.listed_labels import ListedLabels
from coterie.evaluation.probes.recipe import Recipe
from coterie.evaluation.probes.supervised import train_classifier
from coterie.models.backbone import BackboneConfig, build_backbone
from tests.evaluation.probes.test_supervised import PREPROCESSING, SHORT, Recorder, digest, network, shapes

__all__ = ["shapes"]  # a fixture

BRIEF = Recipe(0.02, 0.1, epochs=3, batch_size=6)


def new() -> nn.Module:
    return build_backbone(BackboneConfig("resnet18", width=0.125, stem="small"), 16)


def test_a_good_start_beats_new_weights_with_the_same_labels(shapes: LabeledPair) -> None:
    pretrained = network()
    train_classifier(pretrained, shapes, PREPROCESSING, SHORT)
    before, logger = digest(pretrained), Recorder()
    figures = finetune(
        pretrained,
        shapes,
        PREPROCESSING,
        build=new,
        few=FewLabels(per_class=4),
        recipe=BRIEF,
        scratch=BRIEF,
        runtime=Runtime(logger=logger),
    )
    assert digest(pretrained) == before
    assert figures["labels"] == 12
    assert figures["top1"] > 90  # of six seeds all gave 100; new weights gave 40 to 83
    assert figures["top1"] > figures["scratch_top1"]
    names = {"top1", "top5", "mean_per_class"}
    assert figures.keys() == names | {f"scratch_{name}" for name in names} | {"labels"}
    assert [what for _, what in logger.tasks] == [
        "fine-tuning on 12 labels",
        "testing the classifier",
        "training from scratch on 12 labels",
        "testing the classifier",
    ]


def test_the_baseline_has_the_same_images_and_weights_drawn_from_the_seed(shapes: LabeledPair) -> None:
    torch.manual_seed(9)
    first = finetune(
        network(), shapes, PREPROCESSING, build=new, few=FewLabels(share=0.5), recipe=BRIEF, scratch=BRIEF, seed=5
    )
    known = labels_of(shapes.train)
    places = labeled_subset(known, share=0.5, seed=5).positions
    part = LabeledPair(Subset(shapes.train, places, known[places], shapes.train.classes), shapes.test)
    by_hand = train_classifier(network(5), part, PREPROCESSING, BRIEF, seed=5)
    assert {name: first[f"scratch_{name}"] for name in by_hand} == by_hand
    torch.manual_seed(10)
    assert (
        finetune(
            network(), shapes, PREPROCESSING, build=new, few=FewLabels(share=0.5), recipe=BRIEF, scratch=BRIEF, seed=5
        )
        == first
    )


def test_small_classes_give_a_warning(shapes: LabeledPair) -> None:
    logger = Recorder()
    finetune(
        network(),
        shapes,
        PREPROCESSING,
        build=new,
        few=FewLabels(per_class=13),
        recipe=BRIEF,
        scratch=BRIEF,
        runtime=Runtime(logger=logger),
    )
    assert logger.warnings == ["3 of 3 classes have fewer than 13 labeled images: all of them are used"]


@pytest.mark.parametrize(
    ("share", "per_class", "recipe"),
    [
        (0.01, None, ONE_PERCENT),
        (0.02, None, ONE_PERCENT),
        (0.1, None, TEN_PERCENT),
        (None, 5, ONE_PERCENT),
        (None, 39, ONE_PERCENT),
        (None, 40, TEN_PERCENT),
        (None, 128, TEN_PERCENT),
    ],
)
def test_which_published_recipe(share: float | None, per_class: int | None, recipe: Recipe) -> None:
    assert published_recipe(FewLabels(share, per_class)) == recipe


def test_the_published_recipes() -> None:
    """SwAV, appendix A.4."""
    assert (ONE_PERCENT.backbone_lr, ONE_PERCENT.head_lr) == (0.02, 5)
    assert (TEN_PERCENT.backbone_lr, TEN_PERCENT.head_lr) == (0.01, 0.2)
    for recipe in (ONE_PERCENT, TEN_PERCENT):
        assert (recipe.epochs, recipe.batch_size, recipe.weight_decay, recipe.schedule) == (20, 256, 0, "drops")
        assert [recipe.factor(epoch) for epoch in (0, 11, 12, 15, 16, 19)] == pytest.approx(
            [1, 1, 0.2, 0.2, 0.04, 0.04]
        )
    assert FROM_SCRATCH.backbone_lr == FROM_SCRATCH.head_lr


def test_a_recipe_by_name_keeps_its_rates_and_a_list_says_which_labels(
    shapes: LabeledPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "MIN_STEPS", 3)
    listed = ListedLabels("list.txt", ("circle/001.png", "cross/004.png", "square/007.png", "square/008.png"))

    def figures(recipe: Recipe | str | None, few: ListedLabels) -> dict[str, float]:
        runtime = Runtime(logger=logger)
        given = {"build": new, "scratch": BRIEF, "runtime": runtime}
        return finetune(network(), shapes, PREPROCESSING, few=few, recipe=recipe, **given)

    logger = Recorder()
    by_name = figures("10%", listed)
    assert by_name["labels"] == 4
    assert by_name == figures(TEN_PERCENT.adapted_to(4), listed)
    assert not any("is too high for features" in line for line in logger.messages)
    figures(None, listed)  # by default, one label per class is few
    rate = ONE_PERCENT.adapted_to(4).head_lr
    assert any(
        f"learning rate of the classifier, {rate:.3g} for batches of 4, is too" in line for line in logger.messages
    )


class Ones(nn.Module):
    """Eight features of a given size."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.size = nn.Parameter(torch.tensor(size))

    def forward(self, images: Tensor) -> Tensor:
        return self.size.expand(len(images), 8)


def test_large_features_get_a_lower_rate(shapes: LabeledPair) -> None:
    assert limit_head_lr(ONE_PERCENT, Ones(0.1), shapes, PREPROCESSING) == ONE_PERCENT
    assert limit_head_lr(ONE_PERCENT, Ones(2.0), shapes, PREPROCESSING) == replace(ONE_PERCENT, head_lr=3 / (2 * 8 * 4))
    assert limit_head_lr(ONE_PERCENT, Ones(0.0), shapes, PREPROCESSING) == ONE_PERCENT
    with pytest.raises(UserError, match="NaN or infinity in 36 of 36 embeddings of TRAIN"):
        limit_head_lr(ONE_PERCENT, Ones(float("nan")), shapes, PREPROCESSING)


def test_the_logger_is_informed_of_an_adapted_recipe(shapes: LabeledPair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "MIN_STEPS", 2)  # 320 steps take long
    logger, places = Recorder(), np.array([0, 12, 24])
    few = LabeledPair(Subset(shapes.train, places, np.arange(3), shapes.train.classes), shapes.test)
    finetune(
        Ones(2.0),
        few,
        PREPROCESSING,
        build=lambda: Ones(2.0),
        few=FewLabels(per_class=1),
        scratch=BRIEF,
        runtime=Runtime(logger=logger),
    )
    assert logger.messages[0] == (
        "fine-tuning on 3 labels: few images for batches of 256 and 20 epochs: batches of 3, rates times 3/256, 20 epochs"
    )
    assert logger.messages[1] == (
        "fine-tuning on 3 labels: the published learning rate of the classifier, 0.0586 for batches of 3, is too high for "
        "features of this size: 0.0469"
    )
    assert logger.tasks[0] == (20, "fine-tuning on 3 labels")
