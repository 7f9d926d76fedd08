"""A run described in a few lines."""

import torch

from coterie.config.describe import explain, summary
from coterie.config.toml import from_dict
from tests.config.presets import changed

CPU = torch.device("cpu")


def test_the_summary_names_what_is_trained_on_what() -> None:
    config = from_dict(changed("batch_size=64", "epochs=3", "groups.counts=[40,50]", "memory.length=128"))
    assert summary(config, 1000, CPU) == (
        "swav: 1000 images, resnet18, crops 2x24 + 2x16, 40+50 groups, memory 128, batch 64, 3 epochs of 15 steps on cpu"
    )
    config = from_dict(changed("images=640", "batch_size=64", method="simclr"))
    text = summary(config, 1000, CPU)
    assert ", the batch as groups, " in text
    assert text.endswith("to image 640 on cpu")


def test_reasons_come_in_the_order_of_the_settings_with_the_values_of_the_config() -> None:
    config = from_dict(changed("groups.counts=[40]", "views.crops.0.size=20", "memory=none"))
    reasons = {"memory": "a", "groups.counts": "b", "views.crops": "c", "temperature": "d", "views.crops.0.size": "e"}
    assert explain(config, reasons) == [
        ("views.crops", "2x20 + 2x16", "c"),
        ("views.crops.0.size", "20", "e"),
        ("groups.counts", "[40]", "b"),
        ("temperature", "0.1", "d"),
        ("memory", "none", "a"),
    ]
