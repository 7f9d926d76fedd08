import json
from contextlib import nullcontext

import pytest
import safetensors.torch
import timm
import timm.models
import torch

from coterie.errors import BadConfig, UserError
from coterie.exporting.backbone_file import save_backbone
from coterie.models.backbone import BackboneConfig, build_backbone
from coterie.models.backbone_of_weights import find_backbone
from coterie.models.pretrained import load_weights


@pytest.mark.parametrize(
    "config",
    [
        BackboneConfig("resnet18", width=0.125),
        BackboneConfig("resnet18", width=0.125, stem="small", channels=1),
        BackboneConfig("resnet50", width=0.25, channels=6),
        BackboneConfig("resnet50d", channels=2),
        BackboneConfig("vit_tiny_patch16_224", channels=4),
        BackboneConfig("vit_tiny_patch16_224", mlp_norm="batch"),
        BackboneConfig("swin_tiny_patch4_window7_224", mlp_norm="batch", channels=1),
        BackboneConfig("convnext_atto", channels=5),
        BackboneConfig("tf_efficientnet_lite0"),
    ],
    ids=lambda config: f"{config.name}-{config.width}-{config.stem}-{config.channels}-{config.mlp_norm}",
)
def test_the_settings_come_from_the_tensors(config, tmp_path):
    torch.save(
        {"state_dict": {f"net.{k}": v for k, v in build_backbone(config, 64).state_dict().items()}}, tmp_path / "x.pth"
    )
    found = find_backbone(tmp_path / "x.pth", config.name)
    assert found.config == config
    assert found.image_size == (64 if "vit" in config.name else None)
    assert found.line.startswith(f"{tmp_path}/x.pth: took ")
    assert f"it is a {config.name}" in found.line
    assert load_weights(build_backbone(found.config, 64), tmp_path / "x.pth", config.channels) in found.line


@pytest.mark.parametrize("name", timm.list_models("test_*"))
def test_all_kinds_of_networks(name, tmp_path):
    """The tiny members of timm's families, with their classifiers."""
    theirs = timm.create_model(name)
    torch.save(theirs.state_dict(), tmp_path / "x.pth")
    found = find_backbone(tmp_path / "x.pth", name)
    assert found.config == BackboneConfig(name)
    ours = build_backbone(found.config, found.image_size or 160)
    load_weights(ours, tmp_path / "x.pth", 3)
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())


def test_a_batch_norm_before_the_mlp_that_is_the_norm_itself(tmp_path):
    """As in other programs with such Swins; ours has it one level deeper."""
    theirs = build_backbone(BackboneConfig("swin_tiny_patch4_window7_224", mlp_norm="batch"), 64)
    state = {key.replace(".norm2.batch_norm.", ".norm2."): value for key, value in theirs.state_dict().items()}
    torch.save({"state_dict": {f"module.encoder_q.{key}": value for key, value in state.items()}}, tmp_path / "x.pth")
    found = find_backbone(tmp_path / "x.pth", "swin_tiny_patch4_window7_224")
    assert found.config.mlp_norm == "batch"
    ours = build_backbone(found.config, 64)
    load_weights(ours, tmp_path / "x.pth", 3)
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())


def test_our_own_file_and_a_runs_folder_say_their_name(tmp_path):
    config = BackboneConfig("resnet18", width=0.125, stem="small", channels=2)
    save_backbone(tmp_path / "model.safetensors", build_backbone(config, 32), config, 32, (0.5,) * 2, (0.2,) * 2)
    for spec in (tmp_path, tmp_path / "model.safetensors"):
        found = find_backbone(spec)
        assert (found.config, found.image_size) == (config, 32)


def test_timms_folder_says_its_name(tmp_path):
    network = timm.create_model("test_vit", num_classes=10)
    timm.models.save_for_hf(network, tmp_path, safe_serialization="both")
    found = find_backbone(tmp_path)
    assert (found.config, found.image_size) == (BackboneConfig("test_vit"), 160)
    (tmp_path / "model.safetensors").unlink()
    assert find_backbone(tmp_path).config == BackboneConfig("test_vit")


@pytest.mark.parametrize(
    ("config", "like"),
    [
        (BackboneConfig("resnet18"), "resnet18"),
        (BackboneConfig("resnet50", width=0.125, stem="small"), "resnet50"),
        (BackboneConfig("vit_tiny_patch16_224"), "vit_tiny_patch16_224"),
        (BackboneConfig("vit_small_patch14_dinov2"), "vit_small_patch14_dinov2"),
        (BackboneConfig("convnext_tiny"), "convnext_tiny"),
        (BackboneConfig("mobilenetv3_small_050"), None),
    ],
    ids=lambda each: each.name if isinstance(each, BackboneConfig) else "",
)
def test_a_name_is_asked_for_where_the_file_has_none(config, like, tmp_path):
    state = build_backbone(config, 98 if "14" in config.name else 64).state_dict()
    torch.save({"teacher": {f"backbone.{key}": value for key, value in state.items()}}, tmp_path / "x.pth")
    with pytest.raises(
        UserError, match=r"x\.pth does not say which network it holds: name it with --backbone NAME"
    ) as caught:
        find_backbone(tmp_path / "x.pth")
    assert ("it looks like" in str(caught.value)) == (like is not None)
    assert f"(it looks like --backbone {like})" in str(caught.value) or like is None
    (tmp_path / "config.json").write_text('{"architecture": "resnet18"}')  # of something else that lies beside it
    with pytest.raises(UserError, match="does not say which network"):
        find_backbone(tmp_path / "x.pth")


@pytest.mark.parametrize("name", ["resnet50", "resnet34", "vit_tiny_patch16_224", "convnext_atto"])
def test_a_wrong_name_is_told_from_a_right_one(name, tmp_path):
    torch.save(build_backbone(BackboneConfig("resnet18"), 64).state_dict(), tmp_path / "x.pth")
    with pytest.raises(UserError, match=rf"does not fit {name}: missing .*; it looks like a resnet18") as caught:
        find_backbone(tmp_path / "x.pth", name)
    assert "\n" not in str(caught.value)
    with pytest.raises(BadConfig, match="there is no backbone resnt18: did you mean"):
        find_backbone(tmp_path / "x.pth", "resnt18")


def test_other_patches_are_another_network(tmp_path):
    """timm would resample them without a word."""
    state = timm.create_model("vit_tiny_patch16_224").state_dict()
    torch.save(state | {"patch_embed.proj.weight": torch.randn(192, 3, 8, 8)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"patch_embed\.proj\.weight is 192x3x8x8 in the file and 192x3x16x16"):
        find_backbone(tmp_path / "x.pth", "vit_tiny_patch16_224")


@pytest.mark.parametrize(
    "about",
    [
        "",
        "[]",
        "{",
        '{"backbone": 3}',
        '{"backbone": {"name": 3}}',
        '{"backbone": {"name": "no_such_network"}}',
        '{"backbone": {"name": "resnet18"}, "image_size": -1}',
        '{"backbone": {"name": "resnet18"}, "image_size": 1e9}',
        "[" * 5000,
    ],
)
def test_absurd_metadata(about, tmp_path):
    state = build_backbone(BackboneConfig("resnet18", width=0.125), 64).state_dict()
    safetensors.torch.save_file(state, tmp_path / "model.safetensors", {"coterie": about})
    (tmp_path / "config.json").write_text(json.dumps({"architecture": ["resnet18"], "pretrained_cfg": 3}))
    with pytest.raises(UserError) if "18" not in about else nullcontext() as caught:
        found = find_backbone(tmp_path / "model.safetensors")
    if caught is not None:
        assert "\n" not in str(caught.value)
    else:
        assert found.config == BackboneConfig("resnet18", width=0.125)
        assert found.image_size is None
