"""What the settings check by themselves, and what follows from them."""

from dataclasses import replace

import pytest

from coterie.config.schema import PretrainConfig, ProbeConfig, RunConfig
from coterie.config.toml import from_dict
from coterie.errors import BadConfig
from tests.config.presets import changed


def config(*overrides: str, method: str = "swav") -> PretrainConfig:
    return from_dict(changed(*overrides, method=method))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fsdp": True, "compile": "always"}, "set it to 'auto'"),
        ({"threads": -1}, "run.threads is -1"),
        ({"log_steps": 0}, "run.log_steps is 0"),
        ({"save_minutes": 0.0}, "run.save_minutes is 0: it must be above 0"),
        ({"save_steps": -2}, "run.save_steps is -2: it cannot be negative"),
        ({"snapshots": -1}, "run.snapshots is -1"),
        ({"early_stop": True, "snapshots": 0}, "run.early_stop needs label-free metrics"),
    ],
)
def test_how_a_run_is_computed(values: dict, message: str) -> None:
    with pytest.raises(BadConfig) as raised:
        RunConfig(**values)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": 1}, "at least 2 images per batch"),
        ({"images": 3}, "images is 3: give at least one batch of 256"),
        ({"seed": 2**62}, "give a number from 0 to"),
        ({"clip_grad_norm": 0.0}, "clip_grad_norm is 0"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"batch_norm_processes": -1}, "batch_norm_processes is -1"),
        ({"micro_batches": 129}, "with at least 2 images each (batch_size is 256)"),
    ],
)
def test_numbers_out_of_range(values: dict, message: str) -> None:
    with pytest.raises(BadConfig) as raised:
        replace(config(), **values)
    assert message in str(raised.value)


def test_probes() -> None:
    with pytest.raises(BadConfig, match="unknown probe svm: choose from knn"):
        ProbeConfig(("images",), probes=("knn", "svm"))
    with pytest.raises(BadConfig, match="no probe is named"):
        ProbeConfig(("images",), probes=())
    with pytest.raises(BadConfig, match=r"probe\.every_epochs is 0"):
        ProbeConfig(("images",), every_epochs=0)


def test_groups_and_rows_of_a_batch() -> None:
    swav = config("groups.counts=[40,50]", "batch_size=64")
    assert (swav.group_counts, swav.assigned_rows, swav.keeps_labels) == ((40, 50), 128, False)
    sela = config("batch_size=64", "groups.counts=40", method="sela_v2")
    assert (sela.group_counts, sela.assigned_rows, sela.keeps_labels) == ((40,), 64, True)
    simclr = config("batch_size=64", method="simclr")
    assert simclr.group_counts == (4 * 64,)  # every view of every image
    assert config("batch_size=64", method="resa").group_counts == (64, 64)  # the images, for each target view
