import argparse
import pickle

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import nn

from coterie.errors import UserError
from coterie.models.backbone import BackboneConfig, build_backbone
from coterie.models.weights_file import read_weights


def started(path, name="resnet18", size=64, **more) -> nn.Module:
    return build_backbone(BackboneConfig(name, weights=str(path), **more), size)


def same(ours: nn.Module, theirs: nn.Module) -> bool:
    expected = theirs.state_dict()
    return all(torch.equal(value, expected[key]) for key, value in ours.state_dict().items())


def test_torchvisions_weights_give_torchvisions_features(tmp_path):
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(weights=None)
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    ours = started(tmp_path / "resnet18.pth")
    assert same(ours, theirs)
    theirs.fc = nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours.eval()(images), theirs.eval()(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto"])
def test_timms_weights_with_their_classifier(name, tmp_path):
    theirs = timm.create_model(name, num_classes=10)
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    assert same(started(tmp_path / "model.safetensors", name, size=224), theirs)


def test_a_run_folder(tmp_path):
    theirs = build_backbone(BackboneConfig("resnet18", width=0.25, stem="small"), 32)
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    assert same(started(tmp_path, width=0.25, stem="small"), theirs)


@pytest.mark.parametrize("wrapped", [True, False], ids=["state_dict", "bare"])
def test_the_layout_of_swavs_checkpoints(wrapped, tmp_path):
    theirs = build_backbone(BackboneConfig("resnet50", width=0.25), 64)
    state = {f"module.{key}": value for key, value in theirs.state_dict().items()}
    for key in ("projection_head.0.weight", "projection_head.1.running_mean", "prototypes.weight"):
        state[f"module.{key}"] = torch.zeros(3)
    content = {"epoch": 400, "state_dict": state, "optimizer": {"state": {}}} if wrapped else state
    torch.save(content, tmp_path / "checkpoint.pth.tar")
    assert same(started(tmp_path / "checkpoint.pth.tar", "resnet50", width=0.25), theirs)


def test_files_from_before_torch_1_6_with_options_and_without_counters(tmp_path):
    theirs = build_backbone(BackboneConfig("resnet18", width=0.25), 64)
    state = {key: value for key, value in theirs.state_dict().items() if not key.endswith("num_batches_tracked")}
    content = {"model": state, "args": argparse.Namespace(lr=0.1)}
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert same(started(tmp_path / "old.pth", width=0.25), theirs)


def test_a_vits_positions_are_resampled_to_another_image_size(tmp_path):
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=10)
    # A gradient from left to right stays one on any grid.
    slope = torch.linspace(0, 1, 14).repeat(14, 1).flatten()[None, :, None]
    theirs.pos_embed.data[:, 1:] = slope
    torch.save(theirs.state_dict(), tmp_path / "vit.pth")
    ours = started(tmp_path / "vit.pth", "vit_tiny_patch16_224", size=96)
    grid = ours.pos_embed[0, 1:, 0].view(6, 6)
    torch.testing.assert_close(grid, grid[:1].expand(6, 6), rtol=0, atol=1e-5)
    assert (grid[0].diff() > 0).all()
    assert torch.equal(ours.blocks[3].attn.qkv.weight, theirs.blocks[3].attn.qkv.weight)


def test_a_swins_positions_are_resampled_to_another_image_size(tmp_path):
    name = "swin_tiny_patch4_window7_224"
    theirs = timm.create_model(name, num_classes=10)
    # A bias that depends on the distance between columns, -6 to 6, still does so in windows of 4 instead of 7.
    theirs.layers[2].blocks[0].attn.relative_position_bias_table.data[:] = torch.arange(-6.0, 7).repeat(13)[:, None]
    torch.save(theirs.state_dict(), tmp_path / "swin.pth")
    ours = started(tmp_path / "swin.pth", name, size=64)
    table = ours.layers[2].blocks[0].attn.relative_position_bias_table.detach()
    assert table.shape == (49, 12)
    grid = table[:, 0].view(7, 7)
    torch.testing.assert_close(grid, grid[:1].expand(7, 7), rtol=0, atol=1e-4)
    assert (grid[0].diff() > 0.5).all()
    torch.testing.assert_close(grid[0], -grid[0].flip(0), rtol=0, atol=1e-4)
    assert torch.equal(ours.layers[1].downsample.reduction.weight, theirs.layers[1].downsample.reduction.weight)


@pytest.mark.parametrize("channels", [1, 4])
def test_a_first_convolution_for_rgb_is_converted(channels, tmp_path):
    theirs = build_backbone(BackboneConfig("resnet18", width=0.25), 64)
    torch.save(theirs.state_dict(), tmp_path / "rgb.pth")
    ours = started(tmp_path / "rgb.pth", width=0.25, channels=channels)
    gray = torch.randn(2, 1, 64, 64)
    expected = theirs.conv1(gray.expand(-1, 3, -1, -1))
    if channels == 1:
        torch.testing.assert_close(ours.conv1(gray), expected, rtol=1e-4, atol=1e-4)
    else:
        torch.testing.assert_close(ours.conv1.weight[:, :3], theirs.conv1.weight * 3 / 4)
    assert torch.equal(ours.layer1[0].conv1.weight, theirs.layer1[0].conv1.weight)


@pytest.mark.parametrize(
    ("theirs", "ours", "message"),
    [
        (BackboneConfig("resnet34", width=0.25), BackboneConfig("resnet18", width=0.25), "not in the network layer1.2"),
        (BackboneConfig("resnet18", width=0.25), BackboneConfig("resnet34", width=0.25), "missing layer1.2"),
        (BackboneConfig("resnet18", width=0.25), BackboneConfig("resnet18", width=0.5), "conv1.weight is 16x3x7x7 in"),
        (BackboneConfig("resnet18", width=0.25), BackboneConfig("resnet18", width=0.25, stem="small"), "16x3x3x3"),
        (BackboneConfig("resnet18", width=0.25), BackboneConfig("convnext_atto"), "missing stem.0.weight"),
        (BackboneConfig("convnext_atto"), BackboneConfig("vit_tiny_patch16_224"), "missing cls_token"),
        (BackboneConfig("convnext_atto"), BackboneConfig("swin_tiny_patch4_window7_224"), "missing patch_embed"),
    ],
    ids=["deeper", "shallower", "narrower", "stem", "resnet-convnext", "convnext-vit", "convnext-swin"],
)
def test_weights_of_another_network_are_refused_in_one_line_that_names_them(theirs, ours, message, tmp_path):
    torch.save(build_backbone(theirs, 64).state_dict(), tmp_path / "other.pth")
    with pytest.raises(UserError, match=message) as caught:
        started(tmp_path / "other.pth", ours.name, width=ours.width, stem=ours.stem)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


class Mischief:
    def __reduce__(self):
        return (open, ("mischief_was_done", "w"))


@pytest.mark.parametrize(
    "name", ["evil.pth", "empty.pth", "empty.safetensors", "text.pth", "text.safetensors", "absent.pth"]
)
def test_files_that_are_not_weights_are_refused_in_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    if name == "evil.pth":
        path.write_bytes(pickle.dumps({"weight": Mischief()}))
    elif name != "absent.pth":
        path.write_text("not weights" * name.startswith("text"))
    with pytest.raises(UserError, match=path.name) as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "mischief_was_done").exists()


def test_a_file_without_tensors_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "nothing.pth")
    with pytest.raises(UserError, match="contains no weights"):
        read_weights(tmp_path / "nothing.pth")
