"""Settings under earlier names: files can be read, and --set names the present setting."""

from pathlib import Path

import pytest

from coterie.config.facts import Facts
from coterie.config.overrides import known_paths, set_path
from coterie.config.renamed import RENAMED, modernize
from coterie.config.toml import from_dict, read_toml, to_dict, to_toml
from coterie.errors import BadConfig
from coterie.grouping.regularizers import MeanEntropy
from coterie.methods.planner import Planner
from coterie.methods.presets import METHODS

CONFIG = METHODS["smog"](Planner(Facts(1000, 32)))
EARLIER = {
    "snapshots = 10": "looks = 4",
    "early_stop = false": 'stop_when = "stale"',
    "activation_checkpointing = false": "checkpoint_activations = true",
    "fsdp = false": "shard = false",
    'rows_from = "student"': 'of = "target"',
    'engine = "auto"': 'engine = "device"',
}


def test_a_file_with_earlier_names_is_read(tmp_path: Path):
    text = to_toml(CONFIG)
    for now, before in EARLIER.items():
        assert now in text
        text = text.replace(now, before)
    file = tmp_path / "config.toml"
    file.write_text("clip = 3.0\n" + text)
    read = from_dict(read_toml(file))
    assert (read.run.snapshots, read.run.early_stop, read.run.activation_checkpointing) == (4, True, True)
    assert (read.memory.rows_from, read.views.engine, read.clip_grad_norm) == ("target", "gpu", 3.0)


def test_the_weight_of_the_mean_entropy_has_become_a_regularizer(tmp_path: Path):
    file, text = tmp_path / "config.toml", to_toml(CONFIG)
    file.write_text("mean_entropy = 0.0\n" + text)
    assert from_dict(read_toml(file)) == CONFIG
    file.write_text("mean_entropy = 2.0\n" + text)
    assert from_dict(read_toml(file)).regularizer == MeanEntropy(2.0)


def test_present_names_stay():
    assert modernize(to_dict(CONFIG)) == to_dict(CONFIG)


def test_set_names_the_present_value():
    with pytest.raises(BadConfig, match=r"^--set views\.engine=device: this value is now called gpu$"):
        set_path(to_dict(CONFIG), "views.engine", "device")


@pytest.mark.parametrize(("before", "now"), RENAMED.items())
def test_set_names_the_present_setting(before: str, now: str):
    settings = to_dict(CONFIG)
    with pytest.raises(BadConfig, match=f"--set {before}: this setting is now called {now}$"):
        set_path(settings, before, 1)
    assert now in known_paths(settings)
