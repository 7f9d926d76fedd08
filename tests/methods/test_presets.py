"""The presets for any images: automatic values that make sense, and settings that can be read back."""

import pytest

from coterie.config.facts import Facts
from coterie.config.toml import from_dict, to_dict
from coterie.methods.planner import Planner
from coterie.methods.presets import METHODS, plan_method


@pytest.mark.parametrize("images", [20, 100, 1000, 10_000, 1_000_000])
@pytest.mark.parametrize("side", [16, 32, 64, 96, 224, 1000])
def test_automatic_values_make_sense(images: int, side: int) -> None:
    config = METHODS["swav"](Planner(Facts(images, side)))
    assert config.batch_size <= images
    assert max(config.groups.counts) <= max(2, images / 10)
    assert (config.backbone.stem == "small") == (side <= 64)
    if config.memory:
        assert config.memory.length % config.batch_size == 0


@pytest.mark.parametrize("name", [name for name in METHODS if "imagenet" not in name])
@pytest.mark.parametrize(
    "facts", [Facts(50_000, 32), Facts(1_281_167, 375), Facts(120, 16, 1, mean=(0.5,), std=(0.2,))]
)
def test_a_preset_needs_no_override(name: str, facts: Facts) -> None:
    config, reasons = plan_method(name, facts)
    assert from_dict(to_dict(config)) == config  # the rules between the parts are checked here
    assert config.method == name
    assert {"epochs", "batch_size", "views.crops"} <= reasons.keys()


def test_requests_reach_the_config_and_what_follows_from_them() -> None:
    config, reasons = plan_method("swav", Facts(50_000, 32), epochs=5, batch_size=64, backbone="vit_tiny_patch16_224")
    assert (config.epochs, config.batch_size, config.backbone.name) == (5, 64, "vit_tiny_patch16_224")
    assert {reasons[path] for path in ("epochs", "batch_size", "backbone.name")} == {"requested"}
    assert config.learning_rate.peak == pytest.approx(4e-3 / 2)
    assert all(crop.size % 32 == 0 for crop in config.views.crops)  # a vision transformer splits images into patches
    assert "backbone.stem" not in reasons


def test_methods_share_their_recipe() -> None:
    """What is compared between methods differs in the method only, and in the regularizer that suits it."""
    names = [name for name in METHODS if "imagenet" not in name]
    planned = {name: plan_method(name, Facts(50_000, 32))[0] for name in names}
    shared = [
        (each.views, each.backbone, each.optimizer, each.learning_rate, each.epochs, each.batch_size)
        for each in planned.values()
    ]
    assert all(each == shared[0] for each in shared)
    assert planned["swav"].regularizer == planned["smog"].regularizer == planned["deepcluster_v2"].regularizer
    assert planned["simclr"].regularizer == planned["resa"].regularizer


def test_large_images_get_the_published_recipe_scaled_to_the_batch() -> None:
    config, _ = plan_method("swav", Facts(1_281_167, 375), batch_size=128)
    assert [(crop.count, crop.size) for crop in config.views.crops] == [(2, 224), (6, 96)]
    assert config.learning_rate.peak == pytest.approx(0.3)
    assert to_dict(config)["optimizer"]["kind"] == "lars"
