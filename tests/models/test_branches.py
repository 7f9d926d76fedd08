"""How other projects nest and prefix their networks, written by hand: each is found and gives the source's features."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from coterie.errors import UserError
from coterie.models.backbone import BackboneConfig, build_backbone
from coterie.models.pretrained import load_weights, read_parts

SMALL = BackboneConfig("resnet18", width=0.125)
IMAGES = torch.linspace(-1, 1, 2 * 3 * 64 * 64).view(2, 3, 64, 64)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    built = build_backbone(SMALL, 64)
    for each in built.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.running_mean.normal_()
    return built.eval()


def under(prefix: str, seed: int, *heads: str) -> dict[str, torch.Tensor]:
    """A network's state dict under a prefix, and heads of two tensors each."""
    state = {f"{prefix}{name}": value for name, value in network(seed).state_dict().items()}
    for head in heads:
        state |= {f"{head}.0.weight": torch.randn(4, 4), f"{head}.0.bias": torch.randn(4)}
    return state


OPTIMIZER = {"state": {0: {"momentum_buffer": torch.zeros(8, 3, 7, 7)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
LIGHTNING = {"epoch": 3, "global_step": 9, "pytorch-lightning_version": "2.0", "optimizer_states": [OPTIMIZER]}

# content, where seed 0 is what the authors evaluate; the prefix that the line names; heads that it names; others that fit
LAYOUTS = {
    "dino": (
        {
            "student": under("module.backbone.", 1, "module.head.mlp"),
            "teacher": under("backbone.", 0, "head.mlp"),
            "optimizer": OPTIMIZER,
            "epoch": 100,
            "dino_loss": OrderedDict(center=torch.zeros(1, 16)),
        },
        "teacher.backbone",
        ["head", "dino_loss"],
        ["student"],
    ),
    "dino backbone": (under("", 0), "", [], []),
    "dinov2 training": ({"teacher": under("backbone.", 0, "dino_head.mlp", "ibot_head.mlp")}, "teacher.backbone", ["dino_head"], []),
    "dinov2 both": (
        {"model": under("student.backbone.", 1, "student.dino_head") | under("teacher.backbone.", 0, "teacher.dino_head")},
        "model.teacher.backbone",
        ["dino_head"],
        ["student"],
    ),
    "moco v2": (
        {
            "epoch": 200,
            "arch": "resnet50",
            "state_dict": under("module.encoder_q.", 0, "module.encoder_q.fc")
            | under("module.encoder_k.", 1, "module.encoder_k.fc")
            | {"module.queue": torch.zeros(8, 32), "module.queue_ptr": torch.zeros(1, dtype=torch.int64)},
            "optimizer": OPTIMIZER,
        },
        "state_dict.module.encoder_q",
        ["fc", "queue"],
        ["encoder_k"],
    ),
    "moco v3": (
        {
            "state_dict": under("module.momentum_encoder.", 1, "module.momentum_encoder.fc")
            | under("module.base_encoder.", 0, "module.base_encoder.fc", "module.predictor")
        },
        "state_dict.module.base_encoder",
        ["fc", "predictor"],
        ["momentum_encoder"],
    ),
    "msn": (
        {
            "encoder": under("module.", 1, "module.fc"),
            "target_encoder": under("module.", 0, "module.fc"),
            "prototypes": torch.randn(12, 4),
            "opt": OPTIMIZER,
        },
        "target_encoder.module",
        ["fc", "prototypes"],
        ["encoder"],
    ),
    "vissl": (
        {
            "classy_state_dict": {
                "base_model": {
                    "model": {
                        "trunk": under("_feature_blocks.", 0),
                        "heads": {"0.clf.0.weight": torch.zeros(4, 4), "1.clf.0.weight": torch.zeros(4, 4)},
                    },
                    "meta": {"input_shape": None},
                },
                "optimizer": OPTIMIZER,
            },
            "phase_idx": 7,
        },
        "trunk._feature_blocks",
        ["heads"],
        [],
    ),
    "solo-learn": (
        {
            "state_dict": under("backbone.", 0, "projector", "classifier") | under("momentum_backbone.", 1, "momentum_projector")
            | {"prototypes.weight_v": torch.randn(12, 4)},
            "hyper_parameters": {"lr": 0.3, "method": "swav"},
            **LIGHTNING,
        },
        "state_dict.backbone",
        ["projector", "prototypes", "classifier"],
        ["momentum_backbone"],
    ),
    "lightly": (
        {"state_dict": under("backbone.", 0, "projection_head.layers") | {"prototypes.heads.0.weight": torch.randn(12, 4)}}
        | LIGHTNING,
        "state_dict.backbone",
        ["projection_head", "prototypes"],
        [],
    ),
    "lightly byol": (
        {"state_dict": under("backbone_momentum.", 1) | under("backbone.", 0, "projection_head")} | LIGHTNING,
        "state_dict.backbone",
        ["projection_head"],
        ["backbone_momentum"],
    ),
    "lightly-train": (
        {
            "state_dict": under("method.student_embedding_model.wrapped_model._model.", 1, "method.student_head")
            | under("method.teacher_embedding_model.wrapped_model._model.", 0, "method.teacher_head")
        }
        | LIGHTNING,
        "method.teacher_embedding_model.wrapped_model._model",
        ["teacher_head"],
        ["student_embedding_model"],
    ),
    "bolts": ({"state_dict": under("encoder.", 0, "projection.model")} | LIGHTNING, "state_dict.encoder", ["projection"], []),
    "bolts byol": (
        {
            "state_dict": under("target_network.encoder.", 1, "target_network.projector")
            | under("online_network.encoder.", 0, "online_network.projector", "predictor")
        }
        | LIGHTNING,
        "online_network.encoder",
        ["projector", "predictor"],
        ["target_network"],
    ),
    "mmselfsup": (
        {"meta": {"epoch": 200}, "state_dict": under("backbone.", 0, "neck.fc0", "head.cls_head"), "optimizer": OPTIMIZER},
        "state_dict.backbone",
        ["neck", "head"],
        [],
    ),
    "stable-pretraining": ({"state_dict": under("backbone.", 0, "projector")} | LIGHTNING, "state_dict.backbone", ["projector"], []),
    "swav": (under("module.", 0, "module.projection_head") | {"module.prototypes.weight": torch.randn(12, 4)}, "module", ["projection_head", "prototypes"], []),
    "deepcluster": (
        {
            "epoch": 400,
            "state_dict": under("module.", 0, "module.projection_head") | {f"module.prototypes.prototypes{i}.weight": torch.randn(12, 4) for i in range(3)},
            "optimizer": OPTIMIZER,
        },
        "state_dict.module",
        ["projection_head", "prototypes"],
        [],
    ),
    "smog": (
        {"state_dict": under("module.model_k.", 1, "module.model_k.projection_head") | under("module.model_q.", 0, "module.model_q.projection_head")},
        "module.model_q",
        ["projection_head"],
        ["model_k"],
    ),
    "timm with averages": (
        {"arch": "resnet18", "state_dict": under("", 1, "fc"), "state_dict_ema": under("", 0, "fc"), "optimizer": OPTIMIZER},
        "state_dict_ema",
        ["fc"],
        ["state_dict"],
    ),
    "compiled": ({"model": under("_orig_mod.module.", 0)}, "model._orig_mod.module", [], []),
    "deepspeed": ({"module": under("model.", 0), "ds_version": "0.9"}, "module.model", [], []),
    "in a list": ([{"epoch": 3}, (OrderedDict(net=under("", 0)),)], "1.0.net", [], []),
    "an unknown project": ({"a": {"b": [{"c": under("x.y.z.", 0, "x.w")}]}}, "a.b.0.c.x.y.z", ["w"], []),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_a_network_is_found_by_content(layout, tmp_path):
    content, prefix, heads, others = LAYOUTS[layout]
    torch.save(content, tmp_path / "checkpoint.pth")
    ours = network(2)
    line = load_weights(ours, tmp_path / "checkpoint.pth", 3)
    assert torch.equal(ours(IMAGES), network(0)(IMAGES))
    assert "\n" not in line
    assert line.startswith(f"{tmp_path}/checkpoint.pth: took 120 tensors")
    assert f"{prefix}," in line or f"{prefix};" in line or line.endswith(prefix)
    parts = read_parts(ours, tmp_path / "checkpoint.pth", 3)
    assert all(any(name.partition(".")[0] == head for name in parts.beside) for head in heads)
    assert not any(word in name for name in parts.beside for word in (*others, "momentum_buffer"))
    assert ("left" in line) == bool(parts.beside)
    for other in others:
        assert f"{other} would fit too: choose with {tmp_path}/checkpoint.pth#{other}" in line
        assert "which the authors of such files evaluate" in line
        chosen = load_weights(ours, f"{tmp_path}/checkpoint.pth#{other}", 3)
        assert torch.equal(ours(IMAGES), network(1)(IMAGES))
        assert other in chosen


@pytest.mark.parametrize("name", ["nobody", "", "teacher.head", "optimizer"])
def test_a_branch_that_is_not_there(name, tmp_path):
    torch.save(LAYOUTS["dino"][0], tmp_path / "full.pth")
    with pytest.raises(UserError, match=rf"full.pth has no branch {name}: it has teacher, student$"):
        load_weights(network(2), f"{tmp_path}/full.pth#{name}", 3)


def test_a_file_whose_name_has_a_hash(tmp_path):
    torch.save(LAYOUTS["dino"][0], tmp_path / "a#b.pth")
    assert "took 120 tensors under teacher.backbone" in load_weights(network(2), tmp_path / "a#b.pth", 3)
    assert "under student.module.backbone" in load_weights(network(2), f"{tmp_path}/a#b.pth#student", 3)
    with pytest.raises(UserError, match="there are no weights at .*absent.pth#student"):
        load_weights(network(2), f"{tmp_path}/absent.pth#student", 3)


def test_the_heads_keep_their_values_and_lose_their_prefixes(tmp_path):
    content = LAYOUTS["deepcluster"][0]
    torch.save(content, tmp_path / "x.pth")
    parts = read_parts(network(2), tmp_path / "x.pth", 3)
    assert list(parts.beside) == [
        "projection_head.0.weight",
        "projection_head.0.bias",
        "prototypes.prototypes0.weight",
        "prototypes.prototypes1.weight",
        "prototypes.prototypes2.weight",
    ]
    assert torch.equal(
        parts.beside["projection_head.0.weight"], content["state_dict"]["module.projection_head.0.weight"]
    )


@torch.no_grad()
def test_half_precision(tmp_path):
    halves = {
        name: value.half() if value.is_floating_point() else value for name, value in network(0).state_dict().items()
    }
    torch.save({"state_dict": halves | {"head.weight": torch.ones(2, dtype=torch.bfloat16)}}, tmp_path / "half.pth")
    ours, parts = network(2), read_parts(network(2), tmp_path / "half.pth", 3)
    load_weights(ours, tmp_path / "half.pth", 3)
    assert {each.dtype for each in parts.backbone.values()} == {torch.float32, torch.int64}
    assert parts.beside["head.weight"].dtype == torch.float32
    torch.testing.assert_close(ours(IMAGES), network(0)(IMAGES), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"layer4.2.conv1.weight": torch.zeros(3)}, "not in the network layer4.2.conv1.weight"),
        ({"reg_token": torch.zeros(1, 4, 8)}, "not in the network reg_token"),
        ({"conv1.weight": torch.zeros(8, 3, 5, 5)}, "conv1.weight is 8x3x5x5 in the file and 8x3x7x7 in the network"),
        ({"conv1.weight": torch.zeros(8, 3, 7, 7, dtype=torch.int8)}, "missing conv1.weight"),
        ({"layer4.1.bn2.bias": None}, "missing layer4.1.bn2.bias"),
    ],
)
def test_what_differs_is_said(changed, message, tmp_path):
    torch.save({"teacher": {"net": under("", 0, "fc") | changed}, "student": {"epoch": 3}}, tmp_path / "x.pth")
    ours = network(2)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    with pytest.raises(UserError, match=message) as caught:
        load_weights(ours, tmp_path / "x.pth", 3)
    assert "\n" not in str(caught.value)
    assert "fc" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())
