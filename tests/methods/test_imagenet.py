"""The published presets, stated once more from papers and releases, not from the code."""

import numpy as np
import pytest
import torch

from coterie.config.facts import Facts
from coterie.config.options import RunOptions
from coterie.config.toml import from_dict, to_dict
from coterie.data.loading.center_crop import Preprocessing
from coterie.logger import NullLogger
from coterie.methods.imagenet import PUBLISHED
from coterie.methods.planner import Planner
from coterie.methods.presets import METHODS, plan_method
from coterie.methods.resolve import fit_run
from coterie.models.backbone import build_backbone
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


IMAGENET = Facts(1_281_167, 375)
LARGE = {"kind": "cosine", "peak": 4.8, "final": 0.0048, "warmup_epochs": 10, "start": 0.3}


@pytest.mark.parametrize(
    ("name", "crops", "width", "hidden", "epochs", "batch", "queue"),
    [
        ("swav_imagenet_2x224", [(2, 224, (0.08, 1.0))], 1, 2048, 400, 4096, None),
        ("swav_imagenet_w2", [(2, 224, (0.14, 1.0)), (4, 96, (0.05, 0.14))], 2, 8192, 400, 4096, None),
        ("swav_imagenet_w4", [(2, 224, (0.08, 1.0)), (4, 96, (0.08, 0.14))], 4, 8192, 400, 2560, (2560, 0)),
        ("swav_imagenet_w5", [(2, 224, (0.14, 1.0)), (4, 96, (0.05, 0.14))], 5, 10240, 400, 1536, (1536, 0)),
        ("deepcluster_v2_imagenet_2x224", [(2, 224, (0.08, 1.0))], 1, 2048, 400, 4096, (312 * 4096, 0)),
    ],
)
def test_wide_networks_and_two_crops_as_released(
    name: str,
    crops: list[tuple],
    width: int,
    hidden: int,
    epochs: int,
    batch: int,
    queue: tuple[int, int] | None,
) -> None:
    """methods.md 2.1, and the release's scripts, row by row."""
    config, reasons = plan_method(name, IMAGENET)
    assert from_dict(to_dict(config)) == config
    assert (config.method, [(c.count, c.size, c.scale) for c in config.views.crops]) == (name, crops)
    assert (config.backbone.name, config.backbone.width) == ("resnet50", width)
    assert (config.projector.hidden, config.projector.width) == ((hidden,), 128)
    assert (config.epochs, config.batch_size) == (epochs, batch)
    assert (reasons["epochs"], reasons["batch_size"]) == ("as published", "as published")
    assert (None if config.memory is None else (config.memory.length, config.memory.start_epoch)) == queue
    last = {"final": 0.0, "start": 0.1875} if name == "swav_imagenet_w5" else {}  # as in its script
    assert to_dict(config)["learning_rate"] == LARGE | last
    assert config.projector.batch_norm == (name != "swav_imagenet_w5")
    if name.startswith("swav"):
        assert (config.groups.counts, config.groups.frozen_steps) == ((3000,), 313)


def test_every_published_preset_is_evaluated_at_224_pixels_from_a_short_side_of_256() -> None:
    """Whatever the crops in training: DeepCluster-v2's and SeLa-v2's are of 160."""
    for preset in PUBLISHED:
        size = preset(Planner(IMAGENET)).views.center_crop_size
        assert (size, Preprocessing(size, 3, (0.5,) * 3, (0.2,) * 3).resized) == (224, 256), preset.__name__


def test_large_batches_normalize_in_groups_of_eight_processes_and_all_else_together() -> None:
    """The releases use apex's groups of 8 on 64 GPUs and more, and torch's single group at batch 256."""
    processes = {name: METHODS[name](Planner(IMAGENET)).batch_norm_processes for name in METHODS}
    published = {preset.__name__ for preset in PUBLISHED}
    assert {name for name, number in processes.items() if number == 8} == published - {"swav_imagenet_256"}
    assert set(processes.values()) == {0, 8}


@pytest.mark.parametrize(("width", "millions"), [(2, 94), (4, 375), (5, 586)])
def test_wide_networks_are_as_large_as_published(width: int, millions: int) -> None:
    backbone = METHODS[f"swav_imagenet_w{width}"](Planner(IMAGENET)).backbone
    with torch.device("meta"):
        network = build_backbone(backbone, 224)
    assert round(sum(weight.numel() for weight in network.parameters()) / 1e6) == millions


@pytest.mark.parametrize("name", [preset.__name__ for preset in PUBLISHED])
def test_another_batch_size_leaves_the_published_rate_and_says_so_in_one_line(name: str) -> None:
    published, reasons = plan_method(name, IMAGENET)
    assert "learning_rate.peak" not in reasons
    _, reasons = plan_method(name, IMAGENET, batch_size=published.batch_size)
    assert "learning_rate.peak" not in reasons
    config, reasons = plan_method(name, IMAGENET, batch_size=512)
    assert (config.batch_size, config.learning_rate) == (512, published.learning_rate)
    told = f"as published for batch {published.batch_size}, not scaled to your batch of 512"
    assert reasons["learning_rate.peak"] == told


class Hearing(NullLogger):
    def __init__(self) -> None:
        self.warned: list[str] = []

    def warning(self, text: str) -> None:
        self.warned.append(text)


def test_groups_that_a_batch_barely_balances_are_said_before_the_run() -> None:
    """All commands that plan a run say it, once, however many runs a budget is fitted with."""
    images = np.zeros((64, 16, 16, 3), np.uint8)
    for count, said in ((256, 0), (257, 1)):
        logger = Hearing()
        settings = [f"groups.counts={count}", "memory=none", "run.device=cpu"]
        options: RunOptions = {"settings": settings, "epochs": 1, "batch_size": 32}
        fit_run("swav", images, options, lambda _: None, lambda: 0.0, logger=logger)
        assert [line.partition(",")[0] for line in logger.warned] == [f"groups.counts is {count}"] * said
