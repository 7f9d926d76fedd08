"""The tiny network of a golden file: our encoder around the small backbone that the file describes."""

import re

from torch import Tensor, nn

from coterie.models.encoder import Encoder
from coterie.models.head import Head, HeadConfig

README_DEFAULTS = {"stride": 2, "padding": 0, "eps": 1e-5, "momentum": 0.1}
"""What golden/README.md says of every layer; the description of a layer may say otherwise."""


def described(meta: dict, layer: str, name: str) -> float:
    """A number from the description of a layer: ``described(meta, "conv_bn", "eps")``."""
    text = next((line for line in meta["network_layers"] if re.search(rf"\b{layer}: ", line)), "")
    number = re.search(rf"\b{name} ([\d.e+-]+)", text)
    return float(number[1]) if number else README_DEFAULTS[name]


def tiny_encoder(meta: dict, arrays: dict[str, Tensor]) -> Encoder:
    """The encoder with the starting values of the file; every starting value of the file has its place in it."""
    network = meta["network"]
    projector, predictor = (hidden_widths(network, arrays, head) for head in ("proj", "pred"))
    joint = "one set of statistics" in meta["batch_norm_scope"]
    encoder = Encoder(
        tiny_backbone(meta, arrays),
        Head(
            network["channels"],
            HeadConfig(projector, network["dim"], network["head_bn"], last_batch_norm=network.get("out_bn", False)),
        ),
        Head(network["dim"], HeadConfig(predictor, network["dim"], network["head_bn"]))
        if network.get("predictor")
        else None,
        batch_norm_scope="joint" if joint else "resolution",
    )
    names = golden_names(encoder)
    for module_name, module in encoder.named_modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            layer = names[f"{module_name}.running_mean"].partition(".")[0]
            module.eps, module.momentum = (described(meta, layer, name) for name in ("eps", "momentum"))
    state = encoder.double().state_dict()
    start = {
        name.partition("/")[2]: value for name, value in arrays.items() if re.match(r"init(_buffers)?/(?!gr)", name)
    }
    assert set(names.values()) == set(start)
    for ours, theirs in names.items():
        assert state[ours].shape == start[theirs].shape, theirs
        state[ours].copy_(start[theirs])
    return encoder


def tiny_backbone(meta: dict, arrays: dict[str, Tensor]) -> nn.Sequential:
    network, kernel = meta["network"], arrays["init/conv.weight"].shape
    stride, padding = (int(described(meta, "conv", name)) for name in ("stride", "padding"))
    model = nn.Sequential()
    model.add_module("conv", nn.Conv2d(kernel[1], network["channels"], tuple(kernel[2:]), stride, padding))
    if network["conv_bn"]:
        model.add_module("conv_bn", nn.BatchNorm2d(network["channels"]))
    model.add_module("relu", nn.ReLU())
    model.add_module("pool", nn.AdaptiveAvgPool2d(1))
    model.add_module("flatten", nn.Flatten())
    return model


def hidden_widths(network: dict, arrays: dict[str, Tensor], head: str) -> tuple[int, ...]:
    linears = [name for name in arrays if re.fullmatch(rf"init/{head}\d+\.weight", name)]
    return (network["hidden"],) * (len(linears) - 1)


def golden_names(encoder: Encoder) -> dict[str, str]:
    """The golden file's name of each of our parameters and buffers."""
    names = {f"backbone.{layer}": layer for layer, _ in encoder.backbone.named_children()}
    for head, theirs in ((encoder.projector, "proj"), (encoder.predictor, "pred")):
        ours = "projector" if head is encoder.projector else "predictor"
        modules = list(head.named_modules()) if head is not None else []
        linears = [name for name, m in modules if isinstance(m, nn.Linear)]
        hidden = [name for name, m in modules if isinstance(m, nn.BatchNorm1d) and m.affine]
        last = [name for name, m in modules if isinstance(m, nn.BatchNorm1d) and not m.affine]
        names |= {f"{ours}.{name}": f"{theirs}{i}" for i, name in enumerate(linears, start=1)}
        names |= {
            f"{ours}.{name}": f"{theirs}{end}" for group, end in ((hidden, "_bn"), (last, "_out_bn")) for name in group
        }
    return {
        key: f"{names[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}"
        for key in encoder.state_dict()
        if not key.endswith("num_batches_tracked")
    }
