"""Files that other packages write: made here by the packages themselves, compared by the features of their networks."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from coterie.models.backbone import BackboneConfig, build_backbone
from coterie.models.backbone_of_weights import find_backbone
from coterie.models.pretrained import load_weights


def loaded(path, name, size=224, **more) -> tuple[nn.Module, str]:
    config = BackboneConfig(name, **more)
    network = build_backbone(config, size)
    return network.eval(), load_weights(network, path, config.channels)


def shaken(network: nn.Module) -> nn.Module:
    """Random values everywhere: initial ones, such as 0 for biases, would hide that a tensor went to the wrong place."""
    for name, each in network.state_dict().items():
        if name.endswith("running_var"):
            each.uniform_(0.5, 1.5)
        elif each.is_floating_point():
            is_norm = each.ndim == 1 and name.endswith("weight")
            each.normal_(1.0 if is_norm else 0.0, 0.1 if each.ndim < 2 else (2 / each[0].numel()) ** 0.5)
    return network.eval()


def assert_same_features(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert theirs.std() > 1e-3
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize(
    ("make", "head", "name"),
    [
        (torchvision.models.resnet50, "fc", "resnet50"),
        (torchvision.models.vit_b_16, "heads", "vit_base_patch16_224"),
        (torchvision.models.swin_t, "head", "swin_tiny_patch4_window7_224"),
        (torchvision.models.convnext_tiny, "classifier.2", "convnext_tiny"),
    ],
)
@torch.no_grad()
def test_torchvision(make, head, name, tmp_path):
    theirs = shaken(make())
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours, line = loaded(tmp_path / "weights.pth", name)
    theirs.set_submodule(head, nn.Identity())
    images = torch.randn(2, 3, 224, 224)
    assert_same_features(ours(images), theirs(images))
    assert f"left {head.partition('.')[0]}" in line
    assert ("renamed from torchvision" in line) == (name != "resnet50")


def small(kind: str, transformers):
    """A network of Hugging Face, the timm network of the same shape, and how the features of the former are read."""
    match kind:
        case "resnet":
            config = transformers.ResNetConfig(
                embedding_size=8, hidden_sizes=[8, 16, 32, 64], depths=[2] * 4, layer_type="basic"
            )
            return transformers.ResNetForImageClassification(config), BackboneConfig("resnet18", width=0.125), 64
        case "resnet-bottleneck":
            config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[32, 64, 128, 256], depths=[3, 4, 6, 3])
            return transformers.ResNetModel(config), BackboneConfig("resnet50", width=0.125), 64
        case "vit":
            config = transformers.ViTConfig(
                hidden_size=192, num_attention_heads=3, intermediate_size=768, image_size=96, layer_norm_eps=1e-6
            )
            return transformers.ViTForImageClassification(config), BackboneConfig("vit_tiny_patch16_224"), 96
        case "dinov2":
            config = transformers.Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=70)
            return transformers.Dinov2Model(config), BackboneConfig("vit_small_patch14_dinov2"), 70
        case "dinov2-registers":
            config = transformers.Dinov2WithRegistersConfig(
                hidden_size=384, num_attention_heads=6, image_size=70, patch_size=14
            )
            return transformers.Dinov2WithRegistersModel(config), BackboneConfig("vit_small_patch14_reg4_dinov2"), 70
        case "swin":
            return (
                transformers.SwinModel(transformers.SwinConfig()),
                BackboneConfig("swin_tiny_patch4_window7_224"),
                224,
            )
    config = transformers.ConvNextConfig(hidden_sizes=[96, 192, 384, 768], depths=[3, 3, 9, 3], layer_norm_eps=1e-6)
    return transformers.ConvNextModel(config), BackboneConfig("convnext_tiny"), 64


@pytest.mark.parametrize(
    "kind", ["resnet", "resnet-bottleneck", "vit", "dinov2", "dinov2-registers", "swin", "convnext"]
)
@torch.no_grad()
def test_hugging_face(kind, tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs the extra test-checkpoints")
    theirs, config, size = small(kind, transformers)
    shaken(theirs).save_pretrained(tmp_path)
    ours, line = loaded(tmp_path, config.name, size, width=config.width)
    images = torch.randn(2, 3, size, size)
    found = theirs.base_model(images)
    pooled = found.last_hidden_state[:, 0] if kind.startswith(("vit", "dino")) else found.pooler_output.flatten(1)
    assert_same_features(ours(images), pooled)
    assert "renamed from Hugging Face" in line
    assert ("left classifier" in line) == (kind in ("resnet", "vit"))


@pytest.mark.parametrize("kind", ["resnet", "vit", "dinov2", "swin"])
def test_hugging_faces_folder_says_which_network_it_is(kind, tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs the extra test-checkpoints")
    theirs, config, size = small(kind, transformers)
    theirs.save_pretrained(tmp_path)
    found = find_backbone(tmp_path)
    assert found.config == config
    assert found.image_size == (None if kind == "resnet" else size)
    assert config.name in found.line


@pytest.mark.parametrize("parts", ["sharded", "bin"])
@torch.no_grad()
def test_hugging_faces_other_files(parts, tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs the extra test-checkpoints")
    theirs, _, _ = small("resnet", transformers)
    shaken(theirs).save_pretrained(tmp_path, max_shard_size="100KB" if parts == "sharded" else "1GB")
    if parts == "bin":
        (tmp_path / "model.safetensors").unlink()
        torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    else:
        assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    ours, _ = loaded(tmp_path, "resnet18", 64, width=0.125)
    images = torch.randn(2, 3, 64, 64)
    assert_same_features(ours(images), theirs.base_model(images).pooler_output.flatten(1))


@torch.no_grad()
def test_lightlys_resnet_as_a_list_of_layers(tmp_path):
    """As in lightly's examples for small images; its checkpoints also hold the hyperparameters and the optimizer."""
    models = pytest.importorskip("lightly.models", reason="needs the extra test-checkpoints")
    heads = pytest.importorskip("lightly.models.modules", reason="needs the extra test-checkpoints")
    generator = models.ResNetGenerator("resnet-18", width=0.25)
    theirs = nn.Sequential(*list(shaken(generator).children())[:-1], nn.AdaptiveAvgPool2d(1))
    whole = nn.ModuleDict(
        {
            "backbone": theirs,
            "projection_head": heads.SwaVProjectionHead(128, 32, 16),
            "prototypes": heads.SwaVPrototypes(16, n_prototypes=12),
        }
    )
    torch.save({"state_dict": whole.state_dict(), "epoch": 3, "optimizer_states": [{}]}, tmp_path / "last.ckpt")
    found = find_backbone(tmp_path / "last.ckpt", "resnet18")
    assert found.config == BackboneConfig("resnet18", width=0.25, stem="small")
    ours, line = loaded(tmp_path / "last.ckpt", "resnet18", 32, width=0.25, stem="small")
    images = torch.randn(2, 3, 32, 32)
    # lightly's own forward pass, without its linear classifier: the list of layers lacks the activation after the stem
    out = torch.relu(generator.bn1(generator.conv1(images)))
    for layer in (generator.layer1, generator.layer2, generator.layer3, generator.layer4):
        out = layer(out)
    assert_same_features(ours(images), out.mean((2, 3)))
    assert "under state_dict.backbone" in line
    assert "left projection_head, prototypes" in line


@torch.no_grad()
def test_a_torchvision_resnet_as_a_list_of_layers(tmp_path):
    """As in most of lightly's examples."""
    theirs = nn.Sequential(*list(shaken(torchvision.models.resnet18()).children())[:-1])
    torch.save(
        {"state_dict": {f"backbone.{key}": value for key, value in theirs.state_dict().items()}}, tmp_path / "x.ckpt"
    )
    ours, line = loaded(tmp_path / "x.ckpt", "resnet18", 64)
    images = torch.randn(2, 3, 64, 64)
    assert_same_features(ours(images), theirs(images).flatten(1))
    assert "renamed from a list of layers" in line


@torch.no_grad()
def test_lightlys_masked_vit(tmp_path):
    modules = pytest.importorskip("lightly.models.modules", reason="needs the extra test-checkpoints")
    vit = shaken(timm.create_model("vit_tiny_patch16_224", img_size=96))
    theirs = modules.MaskedVisionTransformerTIMM(vit=vit)
    torch.save(
        {"state_dict": {f"backbone.{key}": value for key, value in theirs.state_dict().items()}}, tmp_path / "x.ckpt"
    )
    ours, line = loaded(tmp_path / "x.ckpt", "vit_tiny_patch16_224", 96)
    images = torch.randn(2, 3, 96, 96)
    assert_same_features(ours(images), vit.forward_head(vit.forward_features(images), pre_logits=True))
    assert "under state_dict.backbone" in line


@torch.no_grad()
def test_openmmlabs_vit(tmp_path):
    """Its names, by hand: the package is not installed here."""
    theirs = shaken(timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=96))
    state = {}
    for key, value in theirs.state_dict().items():
        for ours, other in (
            ("patch_embed.proj.", "patch_embed.projection."),
            ("blocks.", "layers."),
            (".norm1.", ".ln1."),
            (".norm2.", ".ln2."),
            (".mlp.fc1.", ".ffn.layers.0.0."),
            (".mlp.fc2.", ".ffn.layers.1."),
        ):
            key = key.replace(ours, other)
        state[f"backbone.{'ln1.' + key[5:] if key.startswith('norm.') else key}"] = value
    torch.save({"meta": {"mmcls_version": "0.23"}, "state_dict": state}, tmp_path / "mm.pth")
    ours, line = loaded(tmp_path / "mm.pth", "vit_tiny_patch16_224", 96)
    images = torch.randn(2, 3, 96, 96)
    assert torch.equal(ours(images), theirs(images))
    assert "renamed from OpenMMLab" in line


@torch.no_grad()
def test_dinov2_in_chunks_of_blocks(tmp_path):
    """As its training program writes it: the teacher's blocks have a second number, the backbone a mask token."""
    theirs = shaken(timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=70))
    state = {f"backbone.{key}": value for key, value in theirs.state_dict().items()}
    state = {
        key.replace("backbone.blocks.", f"backbone.blocks.{int(key.split('.')[2]) // 3}.")
        if ".blocks." in key
        else key: value
        for key, value in state.items()
    }
    state["backbone.mask_token"] = torch.zeros(1, 384)
    state["dino_head.mlp.0.weight"] = state["ibot_head.mlp.0.weight"] = torch.zeros(3, 3)
    torch.save({"teacher": state}, tmp_path / "teacher_checkpoint.pth")
    ours, line = loaded(tmp_path / "teacher_checkpoint.pth", "vit_small_patch14_dinov2", 70)
    images = torch.randn(2, 3, 70, 70)
    assert torch.equal(ours(images), theirs(images))
    assert "under teacher.backbone" in line
    assert "left dino_head, ibot_head" in line
