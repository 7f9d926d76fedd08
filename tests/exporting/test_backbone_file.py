import json
import os
import resource
from dataclasses import replace

import pytest
import safetensors
import timm
import torch
from timm.data import resolve_data_config
from torch import nn

from coterie.errors import UserError
from coterie.exporting.backbone_file import WeightsDescription, describe_backbone, load_backbone, save_backbone
from coterie.exporting.model import open_model
from coterie.models.backbone import BackboneConfig, build_backbone
from coterie.version import __version__

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
TINY = BackboneConfig("resnet18", width=0.25, stem="small")


def save(path, config: BackboneConfig, size: int, **more) -> nn.Module:
    network = build_backbone(config, size)
    channels = config.channels
    save_backbone(path, network, config, size, (MEAN * channels)[:channels], (STD * channels)[:channels], **more)
    return network


def metadata(path) -> dict[str, str]:
    with safetensors.safe_open(path, "pt") as file:
        return file.metadata()


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (TINY, 32),
        (BackboneConfig("resnet18", width=0.25), 64),
        (BackboneConfig("resnet18", stem="small", channels=5), 32),
        (BackboneConfig("vit_tiny_patch16_224", drop_path=0.1), 96),
        (BackboneConfig("swin_tiny_patch4_window7_224", channels=1), 64),
        (BackboneConfig("swin_tiny_patch4_window7_224", mlp_norm="batch"), 32),
        (BackboneConfig("convnext_atto"), 64),
    ],
    ids=["tiny", "narrow", "five-channels", "vit", "swin", "swin-batch-norm", "convnext"],
)
def test_a_saved_backbone_comes_back_in_evaluation_mode(config, size, tmp_path):
    network = save(tmp_path / "model.safetensors", config, size)
    loaded = load_backbone(tmp_path)
    assert not loaded.training
    images = torch.randn(2, config.channels, size, size)
    assert torch.equal(loaded(images), network.eval()(images))


def test_running_averages_of_tokens_come_back(tmp_path):
    config = BackboneConfig("swin_tiny_patch4_window7_224", mlp_norm="batch")
    network = build_backbone(config, 32)
    network(torch.randn(2, 3, 32, 32))  # in training mode, which updates them
    save_backbone(tmp_path / "model.safetensors", network, config, 32, MEAN, STD)
    assert describe_backbone(tmp_path).backbone == config
    loaded, images = load_backbone(tmp_path), torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(images), network.eval()(images))
    again = build_backbone(BackboneConfig(config.name, mlp_norm="batch", weights=str(tmp_path)), 32).eval()
    assert torch.equal(again(images), network(images))
    with pytest.raises(UserError, match=r"norm2.*check backbone\.name.*mlp_norm"):
        build_backbone(BackboneConfig(config.name, weights=str(tmp_path)), 32)


def test_a_file_in_half_precision_has_half_the_size_and_loads_everywhere(tmp_path):
    path, whole = tmp_path / "half.safetensors", tmp_path / "model.safetensors"
    network = build_backbone(TINY, 32)
    network(torch.randn(2, 3, 32, 32))  # in training mode, which updates the running statistics
    for file, half in ((path, True), (whole, False)):
        save_backbone(file, network, TINY, 32, MEAN, STD, half=half)
    assert 0.5 < path.stat().st_size / whole.stat().st_size < 0.6
    network.load_state_dict({name: each.bfloat16() for name, each in network.named_parameters()}, strict=False)
    images, again = torch.randn(2, 3, 32, 32), replace(TINY, weights=str(path))
    for loaded in (load_backbone(path), load_backbone(path, into=build_backbone(TINY, 32)), build_backbone(again, 32)):
        assert {each.dtype for each in loaded.parameters()} == {torch.float32}
        assert torch.equal(loaded.eval()(images), network.eval()(images))


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto"])
@pytest.mark.parametrize("size", [224, 64])
def test_timm_reads_the_file_by_itself(name, size, tmp_path):
    path = tmp_path / "model.safetensors"
    network = save(path, BackboneConfig(name), size).eval()
    if size == 224:
        loaded = timm.create_model(name, num_classes=0, checkpoint_path=path)
    else:
        recipe = json.loads(metadata(path)["timm"])
        loaded = timm.create_model(recipe["name"], checkpoint_path=path, **recipe["arguments"])
    images = torch.randn(1, 3, size, size)
    assert torch.equal(loaded.eval()(images), network(images))


@pytest.mark.parametrize(
    "config", [TINY, BackboneConfig("vit_tiny_patch16_224", mlp_norm="batch")], ids=["tiny", "vit"]
)
def test_what_timm_cannot_build_alone_has_no_recipe_for_timm(config, tmp_path):
    save(tmp_path / "model.safetensors", config, 32)
    assert "timm" not in metadata(tmp_path / "model.safetensors")


def test_the_description_is_complete(tmp_path):
    path = tmp_path / "model.safetensors"
    config = BackboneConfig("resnet18", width=0.25, channels=2, weights="somewhere.pth")
    network = build_backbone(BackboneConfig("resnet18", width=0.25, channels=2), 48)
    more = {"whose": "teacher", "extra": {"method": "swav"}, "interpolation": "bicubic", "crop": 0.95}
    save_backbone(path, network, config, 48, [0.1, 0.2], [0.3, 0.4], **more)
    expected = BackboneConfig("resnet18", width=0.25, channels=2)
    assert describe_backbone(path) == describe_backbone(tmp_path)
    assert describe_backbone(path) == WeightsDescription(
        expected, 48, (0.1, 0.2), (0.3, 0.4), "teacher", __version__, {"method": "swav"}, "bicubic", 0.95
    )


def test_timms_own_tools_find_the_normalization(tmp_path):
    save(tmp_path / "model.safetensors", TINY, 32, interpolation="lanczos")
    found = resolve_data_config({}, model=load_backbone(tmp_path))
    assert (found["mean"], found["std"], found["input_size"]) == (MEAN, STD, (3, 32, 32))
    assert found["interpolation"] == open_model(tmp_path).preprocessing.interpolation == "lanczos"


def test_loading_does_not_touch_the_random_numbers(tmp_path):
    save(tmp_path / "model.safetensors", TINY, 32)
    before = torch.get_rng_state()
    load_backbone(tmp_path)
    assert torch.equal(before, torch.get_rng_state())


def test_any_memory_layout_can_be_saved(tmp_path):
    network = build_backbone(TINY, 32).to(memory_format=torch.channels_last)
    save_backbone(tmp_path / "model.safetensors", network, TINY, 32, MEAN, STD)
    loaded = load_backbone(tmp_path)
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_the_mode_follows_the_umask(umask, mode, tmp_path):
    before = os.umask(umask)
    try:
        save(tmp_path / "model.safetensors", TINY, 32)
    finally:
        os.umask(before)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == mode


def test_a_failed_write_leaves_the_previous_file_intact(tmp_path):
    path = tmp_path / "model.safetensors"
    save(path, TINY, 32)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError, match="cannot write") as caught:
            save(path, TINY, 32)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert [child.name for child in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("damage", ["absent", "empty", "cut", "foreign", "newer", "other-shape"])
def test_a_file_that_cannot_be_used_is_refused_in_one_line(damage, tmp_path):
    path = tmp_path / "model.safetensors"
    network = save(path, TINY, 32)
    whole, state = path.read_bytes(), network.state_dict()
    if damage == "absent":
        path.unlink()
    elif damage in ("empty", "cut"):
        path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"")
    else:
        notes = metadata(path)
        description = json.loads(notes["coterie"])
        if damage == "newer":
            description["backbone"]["registers"] = 4
        if damage == "other-shape":
            description["backbone"]["width"] = 0.5
        notes["coterie"] = json.dumps(description)
        safetensors.torch.save_file(state, path, {} if damage == "foreign" else notes)
    with pytest.raises(UserError, match=path.name) as caught:
        load_backbone(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"is not a run's folder: it has no config\.toml or model\.safetensors"):
        load_backbone(tmp_path)
    with pytest.raises(UserError, match=r"there is no .*nowhere\.safetensors$"):
        load_backbone(tmp_path / "nowhere.safetensors")
