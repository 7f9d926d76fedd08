"""The schema takes what runs write, and refuses what runs refuse."""

import tomllib
from dataclasses import replace

import jsonschema
import pytest

from coterie.config.facts import Facts
from coterie.config.json_schema import config_schema
from coterie.config.overrides import known_kinds
from coterie.config.schema import ProbeConfig
from coterie.config.toml import to_dict, to_toml
from coterie.methods.planner import Planner
from coterie.methods.presets import METHODS
from tests.config.presets import SMALL, changed

SCHEMA = jsonschema.Draft202012Validator(config_schema())


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(config_schema())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("facts", [SMALL, Facts(1_281_167, 375)])
def test_every_preset_fits(name: str, facts: Facts) -> None:
    config = replace(METHODS[name](Planner(facts)), data=("a",), probe=ProbeConfig(("labeled",)), clip_grad_norm=3.0)
    SCHEMA.validate(tomllib.loads(to_toml(config)))


def test_what_a_file_may_write_shorter_fits() -> None:
    content = changed() | {"learning_rate": 0.1}
    content["groups"]["counts"] = 300
    SCHEMA.validate(content)


@pytest.mark.parametrize(
    ("table", "name", "value"),
    [
        ("", "epochs", "ten"),
        ("", "epoch", 3),
        ("run", "compile", "alway"),
        ("run", "worker", 3),
        ("optimizer", "kind", "adam"),
        ("optimizer", "betas", [0.9]),
        ("groups", "counts", "abc"),
    ],
)
def test_what_a_run_refuses_does_not_fit(table: str, name: str, value: object) -> None:
    content = changed()
    (content[table] if table else content)[name] = value
    assert not SCHEMA.is_valid(content)


def test_every_setting_is_described() -> None:
    schema = config_schema()
    for table in (schema, *schema["$defs"].values()):
        for name, setting in table["properties"].items():
            assert name == "kind" or setting["description"], (table["description"], name)
    properties = {name for table in (schema, *schema["$defs"].values()) for name in table["properties"]}
    assert {part for path in known_kinds(to_dict(METHODS["smog"](Planner(SMALL)))) for part in path.split(".")} <= {
        *properties,
        *"0123456789",
    }
