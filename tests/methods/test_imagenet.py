"""The published presets, stated once more from papers and releases, not from the code."""

import pytest

from coterie.config.facts import Facts
from coterie.config.toml import to_dict
from coterie.methods.planner import Planner
from coterie.methods.presets import METHODS
from coterie.optim.optimizer import AdamWConfig, LarsConfig
from coterie.optim.schedule import Constant


def test_the_published_presets() -> None:
    """methods.md 2.1, cell by cell."""
    imagenet = Facts(1_281_167, 375)
    large, small = METHODS["swav_imagenet_4096"](Planner(imagenet)), METHODS["swav_imagenet_256"](Planner(imagenet))
    for config in (large, small):
        assert [(c.count, c.size, c.scale) for c in config.views.crops] == [
            (2, 224, (0.14, 1.0)),
            (6, 96, (0.05, 0.14)),
        ]
        assert (config.views.mean, config.views.std) == ((0.485, 0.456, 0.406), (0.228, 0.224, 0.225))
        assert (config.backbone.name, config.backbone.width, config.backbone.stem) == ("resnet50", 1.0, "standard")
        assert (config.projector.hidden, config.projector.width, config.projector.batch_norm) == ((2048,), 128, True)
        assert (config.groups.counts, config.temperature) == ((3000,), 0.1)
        assert (config.assignment.temperature, config.assignment.iterations) == (0.05, 3)
        assert config.optimizer == LarsConfig(momentum=0.9, weight_decay=Constant(1e-6), trust=0.001, layer_decay=1.0)
    rate = to_dict(large)["learning_rate"]
    assert rate == {"kind": "cosine", "peak": 4.8, "final": 0.0048, "warmup_epochs": 10, "start": 0.3}
    assert (large.batch_size, large.groups.frozen_steps, large.memory) == (4096, 313, None)
    assert to_dict(small)["learning_rate"] == {
        "kind": "cosine",
        "peak": 0.6,
        "final": 0.0006,
        "warmup_epochs": 0,
        "start": 0,
    }
    assert (small.batch_size, small.groups.frozen_steps) == (256, 5005)
    assert (small.memory.length, small.memory.start_epoch) == (3840, 15)


def test_smog_as_released() -> None:
    """methods.md 3.2 and 4, cell by cell."""
    config = METHODS["smog_imagenet"](Planner(Facts(1_281_167, 375)))
    assert [(c.count, c.size, c.scale) for c in config.views.crops] == 2 * [
        (4, 224, (0.2, 1.0)),
        (4, 96, (0.05, 0.2)),
    ]
    blurs = [(c.augmentation.blur, c.augmentation.solarize) for c in config.views.crops]
    assert blurs == [(1.0, 0.0), (1.0, 0.0), (0.1, 0.2), (0.1, 0.2)]
    color = config.views.crops[0].augmentation
    assert (color.brightness, color.contrast, color.saturation, color.hue) == (0.4, 0.4, 0.2, 0.1)
    roles = config.views.roles
    assert roles.student_views == (2, 3, 4, 5, 6, 7)
    assert (roles.target_views, roles.bn_only_views, roles.grouped_views) == ((8, 9), (12, 13, 14, 15), (2, 3))
    settings = to_dict(config)
    assert settings["groups"] == {
        "kind": "momentum",
        "counts": [3000] * 3,
        "momentum": {"kind": "linear", "start": 1.0, "end": 0.99},
        "gradient": False,
    }
    momentum = {"kind": "constant", "value": 0.999}
    assert settings["target"] == {"kind": "teacher", "momentum": momentum, "covers_groups": False, "moves": "before"}
    assert settings["refresh"] == {"every_epochs": 1, "every_steps": 0, "labels": False, "reset_teacher": True}
    rate = {"kind": "cosine", "peak": 4.8, "final": 0.0048, "warmup_epochs": 10, "start": 0.01}
    assert settings["learning_rate"] == rate
    assert (config.batch_norm_scope, config.memory.length, config.epochs) == ("joint", 312 * 4096, 400)
    assert config.projector.last_batch_norm
    assert not config.predictor.last_batch_norm


def test_smog_on_swin_as_its_scripts_intend() -> None:
    config = METHODS["smog_imagenet_swin_tiny"](Planner(Facts(1_281_167, 375)))
    roles = config.views.roles
    assert (roles.student_views, roles.target_views, roles.grouped_views) == ((1, 2, 3, 4, 5, 6), (7,), (1, 2))
    assert (config.backbone.drop_path, config.backbone.mlp_norm, config.clip_grad_norm) == (0.2, "batch", 3.0)
    assert (config.projector.width, config.projector.activation) == (256, "gelu")
    assert config.optimizer == AdamWConfig(betas=(0.9, 0.999), weight_decay=Constant(0.05), layer_decay=1.0)


@pytest.mark.parametrize(("name", "sizes", "epochs"), [("400", (160, 96), 400), ("800", (224, 96), 800)])
def test_deepcluster_as_released(name: str, sizes: tuple[int, int], epochs: int) -> None:
    config = METHODS[f"deepcluster_v2_imagenet_{name}"](Planner(Facts(1_281_167, 375)))
    assert tuple(crop.size for crop in config.views.crops) == sizes
    assert (config.groups.counts, config.epochs, config.batch_size) == ((3000,) * 3, epochs, 4096)
    assert to_dict(config)["assignment"] == {"kind": "nearest"}
    assert config.refresh.labels
    planner = Planner(Facts(1_281_167, 375))
    sela = METHODS["sela_v2_imagenet_400"](planner)
    assert (sela.views, sela.refresh) == (
        METHODS["deepcluster_v2_imagenet_400"](Planner(Facts(1_281_167, 375))).views,
        config.refresh,
    )
