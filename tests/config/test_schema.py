from dataclasses import replace

import pytest

from coterie.config.facts import Facts
from coterie.config.overrides import known_paths, parse_override, set_path
from coterie.config.schema import ProbeConfig
from coterie.config.toml import from_dict, read_toml, to_dict, to_toml
from coterie.errors import BadConfig
from coterie.methods.planner import Planner
from coterie.methods.presets import METHODS
from coterie.optim.optimizer import AdamWConfig, SgdConfig
from coterie.optim.schedule import Constant

SMALL = Facts(images=50_000, side=32)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    "facts", [SMALL, Facts(1_281_167, 375), Facts(5000, 64, channels=5, bits=16, mean=(0.5,) * 5, std=(0.2,) * 5)]
)
def test_every_preset_survives_toml(name: str, facts: Facts, tmp_path) -> None:
    config = replace(
        METHODS[name](Planner(facts)), data=("a folder", "b"), probe=ProbeConfig(("labeled",)), clip_grad_norm=3.0
    )
    (tmp_path / "config.toml").write_text(to_toml(config))
    assert from_dict(read_toml(tmp_path / "config.toml")) == config


def changed(*settings: str) -> dict:
    content = to_dict(METHODS["swav"](Planner(SMALL)))
    for setting in settings:
        set_path(content, *parse_override(setting))
    return content


def test_settings_are_read_with_their_types() -> None:
    config = from_dict(
        changed(
            "groups.counts=300",
            "views.crops.1.scale=[0.1, 0.5]",
            "views.crops.0.augmentation.flip=0",
            "memory=none",
            "optimizer={kind='sgd', momentum=0.8}",
            "learning_rate={kind='constant', value=0.5}",
            "run.device=cpu",
            "backbone.name=resnet50",
        )
    )
    assert config.groups.counts == (300,)
    assert config.views.crops[1].scale == (0.1, 0.5)
    assert config.views.crops[0].augmentation.flip == 0.0
    assert config.memory is None
    assert config.optimizer == SgdConfig(momentum=0.8)
    assert config.learning_rate == Constant(0.5)
    assert (config.run.device, config.backbone.name) == ("cpu", "resnet50")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("optimizer.betas=[0.9, 'x']", "optimizer"),
        ("run.save_minutes='soon'", "run.save_minutes: 'soon' is not a number"),
        ("projector.batch_norm=1", "projector.batch_norm: 1 is not true or false"),
        ("backbone.name=7", "backbone.name: 7 is not a text"),
        ("seed=-1", "seed is -1"),
        ("seed=3.7", "seed: 3.7 is not a whole number"),
        ("temperature=0", "temperature is 0"),
        ("groups.counts=[1]", "at least 2 groups"),
        ("views.crops.0.augmentation.jitter=2", "jitter"),
        ("views.target_views=[9]", "target_views"),
    ],
)
def test_what_cannot_be_meant_names_the_path_and_the_rule(setting: str, said: str) -> None:
    with pytest.raises(BadConfig) as raised:
        from_dict(changed(setting))
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_unknown_and_missing_keys() -> None:
    with pytest.raises(BadConfig, match=r"did you mean groups\.frozen_steps"):
        changed("groups.frozen_step=3")
    content = changed()
    content["groups"]["cuonts"] = [3]
    with pytest.raises(BadConfig, match=r"groups\.cuonts: there is no such setting; did you mean counts"):
        from_dict(content)
    content = changed()
    del content["epochs"]
    with pytest.raises(BadConfig, match="epochs"):
        from_dict(content)


def test_every_path_can_be_set() -> None:
    content = changed()
    paths = known_paths(content)
    assert {
        "groups.counts",
        "views.crops.1.augmentation.hue",
        "optimizer.betas.0",
        "learning_rate.peak",
        "probe.train",
    } <= set(paths)
    assert "optimizer.trust" not in paths  # that is of another kind
    assert isinstance(from_dict(content).optimizer, AdamWConfig)


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
        assert to_dict(config)["optimizer"] == {"kind": "lars", "momentum": 0.9, "weight_decay": 1e-6, "trust": 0.001}
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


@pytest.mark.parametrize("images", [20, 100, 1000, 10_000, 1_000_000])
@pytest.mark.parametrize("side", [16, 32, 64, 96, 224, 1000])
def test_automatic_values_make_sense(images: int, side: int) -> None:
    config = METHODS["swav"](Planner(Facts(images, side)))
    assert config.batch_size <= images
    assert max(config.groups.counts) <= max(2, images / 10)
    assert (config.backbone.stem == "small") == (side <= 64)
    if config.memory:
        assert config.memory.length % config.batch_size == 0


def smog(*settings: str) -> dict:
    content = to_dict(METHODS["smog"](Planner(SMALL)))
    for setting in settings:
        set_path(content, *parse_override(setting))
    return content


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("target.momentum=1.5",), "target.momentum runs from 1.5 to 1.5: keep it within 0 and 1"),
        (("groups.momentum=-0.1",), "groups.momentum runs from -0.1 to -0.1"),
        (("assignment.kind=centered", "assignment.momentum=2"), "assignment.momentum is 2"),
        (("memory=none",), "refresh looks over the memory, and there is none: --set memory.length=N"),
        (("refresh=none",), "--set refresh.every_epochs=1, or groups.kind='learned'"),
        (("groups.counts=[]",), "each head needs at least 2 groups"),
        (("memory.length=400",), "more than the 256 rows that a refresh can see: set memory.length to 512"),
        (("memory.start_epoch=3",), "set it to 0"),
        (("target.kind=same",), "refresh.reset_teacher is true, but there is no teacher"),
        (("target.covers_groups=true",), "target.covers_groups"),
        (("refresh.labels=true",), "set memory.rows_from='target'"),
        (("groups.kind=learned", "refresh.reset_teacher=false", "assignment.kind=sinkhorn"), "refresh does nothing"),
        (("groups.kind=batch",), "--set memory=none --set refresh=none"),
        (("assignment.kind=identity",), "groups.kind='batch'"),
        (("predictor.width=64",), "predictor.width is 64 but projector.width is 128"),
        (("mean_entropy=-1",), "mean_entropy is -1"),
        (("batch_norm_scope=all",), "batch_norm_scope"),
        (("views.swap=true",), "views.swap"),
    ],
)
def test_parts_that_do_not_go_together_name_the_path_and_the_mend(settings: tuple[str, ...], said: str) -> None:
    with pytest.raises(BadConfig) as raised:
        from_dict(smog(*settings))
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_batch_far_too_small_for_the_groups_is_refused_with_the_mend() -> None:
    with pytest.raises(BadConfig, match=r"balancing 64 rows over so many groups must fail; --set memory\.length=6000"):
        from_dict(changed("batch_size=64", "groups.counts=3000", "memory=none"))
    from_dict(changed("batch_size=64", "groups.counts=3000", "memory.length=6000"))
    from_dict(changed("batch_size=64", "groups.counts=500", "memory=none"))


def test_a_number_is_a_schedule_that_stays_at_it() -> None:
    config = from_dict(smog("target.momentum=0.99", "groups.momentum=1", "learning_rate=0.5"))
    assert (config.target.momentum, config.groups.momentum) == (Constant(0.99), Constant(1.0))
    assert config.learning_rate == Constant(0.5)


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
    assert to_dict(config)["optimizer"] == {"kind": "adamw", "betas": [0.9, 0.999], "weight_decay": 0.05}


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


def test_a_preset_that_cannot_be_is_mended_by_what_its_refusal_says() -> None:
    """The rules are asked when all settings are there, not by the preset."""
    content = to_dict(METHODS["swav_imagenet_4096"](Planner(Facts(1_281_167, 375), batch_size=64)))
    with pytest.raises(BadConfig, match=r"--set memory\.length=6000 --set memory\.start_epoch=1"):
        from_dict(content)
    for setting in ("memory.length=6000", "memory.start_epoch=1"):
        set_path(content, *parse_override(setting))
    assert from_dict(content).memory.length == 6000


def test_another_kind_of_groups_keeps_their_number_whatever_comes_first() -> None:
    for order in (("groups.counts=100", "groups.kind=kmeans"), ("groups.kind=kmeans", "groups.counts=100")):
        assert from_dict(smog(*order)).groups.counts == (100,)
    assert from_dict(smog("groups.kind=kmeans")).groups.counts == (500, 500, 500)
    assert "counts" not in smog("groups.kind=batch")["groups"]


def test_labels_want_a_balance_that_has_settled() -> None:
    content = to_dict(METHODS["deepcluster_v2"](Planner(SMALL)))
    set_path(content, "assignment.kind", "sinkhorn")
    with pytest.raises(BadConfig, match=r"--set assignment\.iterations=1000 --set assignment\.tolerance=0\.001"):
        from_dict(content)
