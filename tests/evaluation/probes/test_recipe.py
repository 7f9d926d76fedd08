from dataclasses import replace

import numpy as np
import pytest

from coterie.evaluation.probes.recipe import LINEAR_RECIPE, RECIPES, Recipe, adapt_recipe
from tests.evaluation.probes.test_supervised import Recorder


def test_the_published_linear_recipe() -> None:
    assert (LINEAR_RECIPE.backbone_lr, LINEAR_RECIPE.head_lr, LINEAR_RECIPE.weight_decay) == (0, 0.3, 1e-6)
    assert (LINEAR_RECIPE.epochs, LINEAR_RECIPE.batch_size, LINEAR_RECIPE.schedule) == (100, 256, "cosine")
    assert LINEAR_RECIPE.factor(0) == 1
    assert LINEAR_RECIPE.factor(50) == pytest.approx(0.5)
    assert LINEAR_RECIPE.factor(99) == pytest.approx(2.4672e-4, rel=1e-3)


def test_the_recipes_of_places_and_inaturalist() -> None:
    """SwAV, appendix A.5: SGD, batches of 256, rate 0.01 divided by ten three times, decay 1e-4, 28 and 84 epochs."""
    for name, epochs in (("places205", 28), ("inat18", 84)):
        found = RECIPES[name]
        assert (found.backbone_lr, found.head_lr, found.weight_decay) == (0, 0.01, 1e-4)
        assert (found.epochs, found.batch_size) == (epochs, 256)
        factors = [found.factor(epoch) for epoch in range(epochs)]
        np.testing.assert_allclose(factors, np.repeat([1, 0.1, 0.01, 0.001], epochs // 4))


def test_the_recipe_of_smogs_swin() -> None:
    found = RECIPES["smog_swin"]
    assert (found.head_lr, found.weight_decay, found.epochs, found.schedule) == (0.1, 0, 150, "cosine")


@pytest.mark.parametrize("epochs", [5, 10, 30, 100])
def test_drops_come_at_the_same_share_of_any_number_of_epochs(epochs: int) -> None:
    factors = [Recipe(0.02, 0.1, epochs).factor(epoch) for epoch in range(epochs)]
    expected = np.repeat([1, 0.2, 0.04], [epochs * 3 // 5, epochs // 5, epochs // 5])
    np.testing.assert_allclose(factors, expected)


@pytest.mark.parametrize(
    ("images", "batch", "epochs"),
    [
        (1_281_167, 256, 20),
        (12_811, 256, 20),
        (4096, 256, 20),
        (4095, 255, 20),
        (500, 31, 20),
        (256, 16, 20),
        (100, 16, 54),
        (32, 16, 160),
        (31, 31, 320),
        (2, 2, 320),
    ],
)
def test_a_recipe_is_adapted_to_few_images(images: int, batch: int, epochs: int) -> None:
    recipe = Recipe(0.02, 5.0, epochs=20).adapted_to(images)
    assert (recipe.batch_size, recipe.epochs) == (batch, epochs)
    assert recipe.head_lr == pytest.approx(5 * batch / 256)
    assert recipe.backbone_lr == pytest.approx(0.02 * batch / 256)
    assert recipe.epochs * (images // batch) >= 320
    assert replace(recipe, epochs=3).adapted_to(images) == replace(recipe, epochs=3)  # what fits already stays as it is


def test_the_logger_is_informed_when_a_recipe_is_adapted() -> None:
    logger = Recorder()
    adapted = adapt_recipe(replace(LINEAR_RECIPE, epochs=2), 100, logger, "probe")
    assert adapted == replace(LINEAR_RECIPE, epochs=2).adapted_to(100) != LINEAR_RECIPE
    assert adapt_recipe(adapted, 100, logger, "again") == adapted
    assert logger.messages == [
        "probe: few images for batches of 256 and 2 epochs: batches of 16, rates times 16/256, 54 epochs"
    ]
