"""Settings survive TOML, and what is wrong in a file is refused with its path."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coterie.config.facts import Facts
from coterie.config.schema import ProbeConfig
from coterie.config.toml import as_strings, from_dict, read_run_toml, read_toml, to_toml
from coterie.errors import BadConfig, BadRun
from coterie.methods.planner import Planner
from coterie.methods.presets import METHODS
from coterie.optim.optimizer import SgdConfig
from coterie.optim.schedule import Constant
from tests.config.presets import SMALL, changed, smog


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
    ("setting", "message"),
    [
        ("optimizer.betas=[0.9, 'x']", "optimizer"),
        ("run.save_minutes='soon'", "--set run.save_minutes=soon: give a number, such as run.save_minutes=10"),
        (
            "projector.batch_norm=1",
            "--set projector.batch_norm=1: give true or false, such as projector.batch_norm=true",
        ),
        ("backbone.name=7", "--set backbone.name=7: give a text, such as backbone.name=resnet"),
        ("seed=-1", "seed is -1"),
        ("seed=3.7", "--set seed=3.7: give a whole number, such as seed=0"),
        ("temperature=0", "temperature is 0"),
        ("groups.counts=[1]", "at least 2 groups"),
        ("views.crops.0.augmentation.jitter=2", "jitter"),
        ("views.target_views=[9]", "target_views"),
    ],
)
def test_a_wrong_value_is_refused_with_path_and_rule(setting: str, message: str) -> None:
    with pytest.raises(BadConfig) as raised:
        from_dict(changed(setting))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("run.save_minutes", "soon", "run.save_minutes: 'soon' is not a number"),
        ("projector.batch_norm", 1, "projector.batch_norm: 1 is not true or false"),
        ("backbone.name", 7, "backbone.name: 7 is not a string in quotes"),
        ("run.compile", "alway", "run.compile: 'alway' is not one of auto, never, always; did you mean always?"),
        ("optimizer.betas", [0.9], "optimizer.betas has 1 of 2 values: give a list of 2 numbers"),
        ("optimizer.betas", [0.9, "x"], "optimizer.betas.1: 'x' is not a number"),
        ("groups.counts", "abc", "groups.counts is 'abc': give whole numbers, such as groups.counts=300"),
        ("optimizer.kind", "adam", "optimizer.kind is 'adam': choose one of lars, sgd, adamw; did you mean adamw?"),
        ("run", 5, "run is 5: give a table of settings"),
    ],
)
def test_a_wrong_value_in_a_file(path: str, value: Any, message: str) -> None:
    content = changed()
    *parents, name = path.split(".")
    place = content
    for part in parents:
        place = place[part]
    place[name] = value
    with pytest.raises(BadConfig) as raised:
        from_dict(content)
    assert str(raised.value).startswith(message)


def test_unknown_and_missing_keys() -> None:
    with pytest.raises(BadConfig, match=r"did you mean groups\.frozen_steps"):
        changed("groups.frozen_step=3")
    content = changed()
    content["groups"]["cuonts"] = [3]
    with pytest.raises(BadConfig, match=r"groups\.cuonts: there is no such setting; did you mean counts"):
        from_dict(content)
    content = changed()
    del content["epochs"]
    with pytest.raises(BadConfig, match="missing"):
        from_dict(content)


def test_a_number_is_a_constant_schedule() -> None:
    config = from_dict(smog("target.momentum=0.99", "groups.momentum=1", "learning_rate=0.5"))
    assert (config.target.momentum, config.groups.momentum) == (Constant(0.99), Constant(1.0))
    assert config.learning_rate == Constant(0.5)


def test_one_number_of_groups_is_one_head() -> None:
    settings = changed()
    settings["groups"]["counts"] = 40
    assert from_dict(settings).groups.counts == (40,)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"seed = ", "is not TOML"), (b"\xff", "cannot read"), (b"seed = " + b"[" * 10_000, "is not TOML")],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "config.toml").write_bytes(content)
    with pytest.raises(BadConfig, match=message) as raised:
        read_toml(tmp_path / "config.toml")
    assert "\n" not in str(raised.value)


def test_files_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"there is no settings file .*other\.toml"):
        read_toml(tmp_path / "other.toml")
    with pytest.raises(BadRun, match=r"is not a run's folder: it has no config\.toml"):
        read_run_toml(tmp_path)


@pytest.mark.parametrize("value", ["images", [3], {"a": "b"}])
def test_what_is_no_list_of_strings(value: Any) -> None:
    with pytest.raises(BadConfig, match=r"data is .*: give a list of strings"):
        as_strings(value, "data")
