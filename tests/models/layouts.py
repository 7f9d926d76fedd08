"""How other projects nest and prefix their networks, written by hand from their descriptions."""

from collections import OrderedDict

import torch
from torch import nn

from coterie.models.backbone import BackboneConfig, build_backbone

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
    "dinov2 training": (
        {"teacher": under("backbone.", 0, "dino_head.mlp", "ibot_head.mlp")},
        "teacher.backbone",
        ["dino_head"],
        [],
    ),
    "dinov2 both": (
        {
            "model": under("student.backbone.", 1, "student.dino_head")
            | under("teacher.backbone.", 0, "teacher.dino_head")
        },
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
            "state_dict": under("backbone.", 0, "projector", "classifier")
            | under("momentum_backbone.", 1, "momentum_projector")
            | {"prototypes.weight_v": torch.randn(12, 4)},
            "hyper_parameters": {"lr": 0.3, "method": "swav"},
            **LIGHTNING,
        },
        "state_dict.backbone",
        ["projector", "prototypes", "classifier"],
        ["momentum_backbone"],
    ),
    "lightly": (
        {
            "state_dict": under("backbone.", 0, "projection_head.layers")
            | {"prototypes.heads.0.weight": torch.randn(12, 4)}
        }
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
    "bolts": (
        {"state_dict": under("encoder.", 0, "projection.model")} | LIGHTNING,
        "state_dict.encoder",
        ["projection"],
        [],
    ),
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
        {
            "meta": {"epoch": 200},
            "state_dict": under("backbone.", 0, "neck.fc0", "head.cls_head"),
            "optimizer": OPTIMIZER,
        },
        "state_dict.backbone",
        ["neck", "head"],
        [],
    ),
    "stable-pretraining": (
        {"state_dict": under("backbone.", 0, "projector")} | LIGHTNING,
        "state_dict.backbone",
        ["projector"],
        [],
    ),
    "swav": (
        under("module.", 0, "module.projection_head") | {"module.prototypes.weight": torch.randn(12, 4)},
        "module",
        ["projection_head", "prototypes"],
        [],
    ),
    "deepcluster": (
        {
            "epoch": 400,
            "state_dict": under("module.", 0, "module.projection_head")
            | {f"module.prototypes.prototypes{i}.weight": torch.randn(12, 4) for i in range(3)},
            "optimizer": OPTIMIZER,
        },
        "state_dict.module",
        ["projection_head", "prototypes"],
        [],
    ),
    "smog": (
        {
            "state_dict": under("module.model_k.", 1, "module.model_k.projection_head")
            | under("module.model_q.", 0, "module.model_q.projection_head")
        },
        "module.model_q",
        ["projection_head"],
        ["model_k"],
    ),
    "timm with averages": (
        {
            "arch": "resnet18",
            "state_dict": under("", 1, "fc"),
            "state_dict_ema": under("", 0, "fc"),
            "optimizer": OPTIMIZER,
        },
        "state_dict_ema",
        ["fc"],
        ["state_dict"],
    ),
    "compiled": ({"model": under("_orig_mod.module.", 0)}, "model._orig_mod.module", [], []),
    "deepspeed": ({"module": under("model.", 0), "ds_version": "0.9"}, "module.model", [], []),
    "in a list": ([{"epoch": 3}, (OrderedDict(net=under("", 0)),)], "1.0.net", [], []),
    "an unknown project": ({"a": {"b": [{"c": under("x.y.z.", 0, "x.w")}]}}, "a.b.0.c.x.y.z", ["w"], []),
}
