"""The first thing that a researcher tries: does the official file give the official features? And its head and prototypes?"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

from coterie.models.backbone import BackboneConfig, build_backbone
from coterie.models.backbone_of_weights import find_backbone
from coterie.models.encoder import Encoder
from coterie.models.head import Head, HeadConfig
from coterie.models.pretrained import load_weights, read_parts
from tests.cli.conftest import call as call
from tests.models.official_swav import OfficialSwav, trained_looking

CONFIG = BackboneConfig("resnet26", width=0.125)  # two bottlenecks a stage


def official() -> OfficialSwav:
    return trained_looking(OfficialSwav(planes=8, blocks=(2, 2, 2, 2), hidden=48, width=16, prototypes=30))


def write(network: nn.Module, path: Path, layout: str) -> Path:
    """As the training program saves it, or as it is released; a released file has no counters of batches."""
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    match layout:
        case "training":
            momentum = {"momentum_buffer": torch.zeros(8, 3, 7, 7)}
            optimizer = {"state": {0: momentum}, "param_groups": [{"lr": 4.8, "params": [0]}]}
            torch.save({"epoch": 400, "state_dict": state, "optimizer": optimizer, "amp": {"scale": 128.0}}, path)
        case "released":
            torch.save(state, path)
        case "released, before torch 1.6":
            state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
            torch.save(state, path, _use_new_zipfile_serialization=False)
    return path


def crops() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3, 3, size, size, generator=generator) for size in (64, 64, 32, 32, 32)]


@pytest.mark.parametrize("layout", ["training", "released", "released, before torch 1.6"])
@torch.no_grad()
def test_the_official_file_gives_the_official_features(layout, tmp_path):
    theirs = official()
    path = write(theirs, tmp_path / "swav.pth.tar", layout)
    found = find_backbone(path, "resnet26")
    assert found.config == CONFIG
    ours = build_backbone(CONFIG, 64).eval()
    line = load_weights(ours, path, 3)
    prefix = "state_dict.module" if layout == "training" else "module"
    assert f"under {prefix}; left projection_head, prototypes" in line
    for size in (64, 96, 224):
        images = torch.randn(2, 3, size, size)
        expected = theirs.forward_backbone(images)
        assert expected.std() > 0.1
        torch.testing.assert_close(ours(images), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
        theirs.padding, theirs.conv1.padding = nn.Identity(), (3, 3)  # the same operations: not a bit may differ
        assert torch.equal(ours(images), theirs.forward_backbone(images))
        theirs.padding, theirs.conv1.padding = nn.ConstantPad2d(1, 0.0), (2, 2)


@torch.no_grad()
def test_the_official_head_and_prototypes_give_the_official_embeddings_and_scores(tmp_path):
    """Over all crops, by way of the encoder that runs train with."""
    theirs = official()
    path = write(theirs, tmp_path / "swav.pth.tar", "training")
    backbone, head = build_backbone(CONFIG, 64), Head(256, HeadConfig(hidden=(48,), width=16))
    parts = read_parts(backbone, path, 3)
    assert {name.partition(".")[0] for name in parts.beside} == {"projection_head", "prototypes"}
    backbone.load_state_dict(parts.backbone)
    layers = {name.removeprefix("projection_head."): each for name, each in parts.beside.items()}
    head.layers.load_state_dict({name: each for name, each in layers.items() if "prototypes" not in name})
    features, embeddings, scores = theirs(crops())
    h, z, _ = Encoder(backbone, head).eval()(crops())
    torch.testing.assert_close(h.flatten(0, 1), features, rtol=1e-5, atol=1e-5 * float(features.abs().max()))
    torch.testing.assert_close(z.flatten(0, 1), embeddings, rtol=1e-5, atol=1e-6)
    ours = z.flatten(0, 1) @ parts.beside["prototypes.weight"].T
    torch.testing.assert_close(ours, scores, rtol=1e-5, atol=1e-5 * float(scores.abs().max()))


@pytest.mark.parametrize("width", [0.5, 1, 2])
def test_a_wide_official_network(width, tmp_path):
    """RN50-w2 and its like: they are wide in the stem too."""
    theirs = OfficialSwav(planes=int(64 * width), blocks=(2, 2, 2, 2), hidden=8, width=4, prototypes=5)
    assert find_backbone(write(theirs, tmp_path / "w.pth", "released"), "resnet26").config == replace(
        CONFIG, width=width
    )


@pytest.mark.parametrize("layout", ["training", "released"])
@torch.no_grad()
def test_the_command_embeds_with_the_official_file(call, layout, tmp_path):
    """Pictures of the network's size, so that nothing is resized, normalized as the authors do."""
    theirs, size, mean, std = official(), 64, (0.485, 0.456, 0.406), (0.228, 0.224, 0.225)
    path = write(theirs, tmp_path / "swav.pth.tar", layout)
    pixels = np.random.default_rng(0).integers(0, 256, (5, size, size, 3), dtype=np.uint8)
    for number, each in enumerate(pixels):
        (tmp_path / "images" / f"class{number % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(each).save(tmp_path / "images" / f"class{number % 2}" / f"{number}.png")
    out = tmp_path / "embedded.parquet"
    exact = "--device cpu --precision float32"
    options = f"--backbone resnet26 --size {size} --crop 1 --mean 0.485,0.456,0.406 --std 0.228,0.224,0.225 {exact}"
    status, said, errors = call("embed", path, tmp_path / "images", "--out", out, *options.split())
    assert status == 0, errors
    assert "left projection_head, prototypes" in said + errors
    table = pq.read_table(out).to_pydict()
    order = [int(Path(name).stem) for name in table["name"]]
    images = (torch.from_numpy(pixels[order]).permute(0, 3, 1, 2) / 255 - _column(mean)) / _column(std)
    expected = theirs.forward_backbone(images)
    found = torch.tensor(table["embedding"])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def _column(values: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(values)[None, :, None, None]
