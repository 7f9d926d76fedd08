"""``--set``: what a path may name, how a value is read, and what another kind keeps."""

from pathlib import Path

import numpy as np
import pytest

from coterie.config.facts import Facts
from coterie.config.overrides import known_paths, parse_override, parse_settings, set_path
from coterie.config.toml import from_dict
from coterie.errors import BadConfig
from coterie.optim.optimizer import AdamWConfig
from tests.config.presets import changed, smog


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


def test_a_setting_of_another_kind_says_which() -> None:
    for override, said in {
        "target.momentum=0.9": "target.kind is 'same'; set it to 'teacher' before",
        "learning_rate.end=1": "learning_rate.kind is 'cosine'; set it to 'linear' before",
        "optimizer.trust=1": "optimizer.kind is 'adamw'; set it to 'lars' before",
        "target.nothing=1": "there is no such setting",
    }.items():
        with pytest.raises(BadConfig, match=said):
            changed(override)


def test_another_kind_of_groups_keeps_their_number_whatever_comes_first() -> None:
    for order in (("groups.counts=100", "groups.kind=kmeans"), ("groups.kind=kmeans", "groups.counts=100")):
        assert from_dict(smog(*order)).groups.counts == (100,)
    assert from_dict(smog("groups.kind=kmeans")).groups.counts == (500, 500, 500)
    assert "counts" not in smog("groups.kind=batch")["groups"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b=3", ("a.b", 3)),
        (" a = [1, 2.5] ", ("a", [1, 2.5])),
        ("a=true", ("a", True)),
        ("a=lars", ("a", "lars")),
        ("a='3'", ("a", "3")),
        ("a=x=y", ("a", "x=y")),
        ("a=None", ("a", None)),
    ],
)
def test_a_value_is_toml_a_bare_word_or_none(text: str, expected: tuple[str, object]) -> None:
    path, value = parse_override(text)
    assert (path, value, type(value)) == (*expected, type(expected[1]))


def test_none_removes_what_may_be_absent_and_nothing_else() -> None:
    settings = changed()
    set_path(settings, "memory", None)
    assert "memory" not in settings
    with pytest.raises(BadConfig, match="--set epochs=none: this setting cannot be left out"):
        set_path(settings, "epochs", None)
    set_path(settings, *parse_override("backbone.trainable=none"))  # a word that this setting takes
    assert from_dict(settings).backbone.trainable == "none"


def test_none_drops_an_entry_of_a_list_of_any_length() -> None:
    published = changed("views.crops.1=none", method="swav_imagenet_4096", facts=Facts(50_000, 300))
    assert [crop.size for crop in from_dict(published).views.crops] == [224]
    assert from_dict(changed("views.crops.0=none", "views.crops.0.size=32")).views.sizes == (32, 32)  # what was crops.1
    assert from_dict(smog("groups.counts.2=none")).groups.counts == (500, 500)
    with pytest.raises(BadConfig, match=r"views\.crops is empty"):
        from_dict(changed("views.crops.1=none", "views.crops.0=none"))
    with pytest.raises(BadConfig, match=r"--set views\.crops\.0\.scale\.1=none: this setting cannot be left out"):
        changed("views.crops.0.scale.1=none")
    with pytest.raises(BadConfig, match=r"--set views\.crops\.1\.size: there is no such setting"):
        changed("views.crops.1=none", "views.crops.1.size=32")


def test_roles_of_views_that_are_gone_are_refused_in_one_line() -> None:
    with pytest.raises(BadConfig, match=r"views\.bn_only_views is .*: give views from 0 to 11, each once") as refused:
        from_dict(changed("views.crops.3=none", method="smog_imagenet", facts=Facts(50_000, 300)))
    assert "\n" not in str(refused.value)


def test_an_entry_that_is_not_there_is_no_path() -> None:
    with pytest.raises(BadConfig, match=r"--set views\.crops\.7\.size: there is no such setting"):
        set_path(changed(), "views.crops.7.size", 16)
    with pytest.raises(BadConfig, match="write path=value"):
        parse_override("epochs")


def test_python_gives_a_dictionary_of_its_own_values() -> None:
    settings = {
        "groups.counts": (300, np.int64(5)),
        "memory": None,
        "backbone.weights": Path("w.pt"),
        "a": np.float32(0.5),
    }
    parsed = parse_settings(settings)
    assert parsed == [("groups.counts", [300, 5]), ("memory", None), ("backbone.weights", "w.pt"), ("a", 0.5)]
    assert [type(each) for each in parsed[0][1]] == [int, int]
    assert parse_settings({"a": {"b": (1, 2)}}) == [("a", {"b": [1, 2]})]
    assert parse_settings({"a": "none"}) == [("a", "none")]  # a text stays a text
    content = smog()
    for path, value in parse_settings({"groups.counts": 300}):
        set_path(content, path, value)
    assert from_dict(content).groups.counts == from_dict(smog("groups.counts=300")).groups.counts


def test_texts_are_those_of_the_command() -> None:
    assert parse_settings(["a=1", "b=x"]) == parse_settings(("a=1", "b=x")) == [("a", 1), ("b", "x")]
    assert parse_settings("a=1") == [("a", 1)]
    assert parse_settings(()) == parse_settings({}) == []
    for wrong in ({3: 4}, [3]):
        with pytest.raises(BadConfig, match=r"settings: 3 is not the path of a setting"):
            parse_settings(wrong)
