"""Other projects' names for the parts of a network, translated into timm's."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Replacement = str | Callable[[re.Match[str]], str]


@dataclass(frozen=True)
class OtherNames:
    """How one project names the parts of one kind of network.

    Attributes:
        whose: the project, for messages.
        sign: a pattern that one of the names matches whole, and no name of timm's in such a network.
        rules: patterns and what replaces them, applied to each name in this order. Parts of a tensor end in ``[0]``, ``[1]``
            and so on, and are then joined.
        convert: the name in timm and a tensor to the tensor as timm has it; None: as it is.
    """

    whose: str
    sign: str
    rules: tuple[tuple[str, Replacement], ...]
    convert: Callable[[str, Tensor], Tensor] | None = None


def _one_up(text: str) -> Callable[[re.Match[str]], str]:
    """A replacement in which ``{0}``, ``{1}`` ... are the groups, as numbers, and ``{0+1}`` is the first one plus 1."""

    def replaced(match: re.Match[str]) -> str:
        def number(each: re.Match[str]) -> str:
            return str(int(match[int(each[1]) + 1]) + int(each[2] or 0))

        return re.sub(r"\{(\d)(\+1)?\}", number, text)

    return replaced


def _halved(text: str) -> Callable[[re.Match[str]], str]:
    """Torchvision numbers stages and what lies between them together: stage S is 2 S + 1, what leads to it 2 S."""
    return lambda match: text.format(int(match[1]) // 2)


def _merged_like_timm(name: str, tensor: Tensor) -> Tensor:
    """OpenMMLab merges four patches channel by channel, in rows; timm, as Swin's authors, patch by patch, in columns."""
    if (
        not re.fullmatch(r"layers\.\d+\.downsample\.(norm\.(weight|bias)|reduction\.weight)", name)
        or tensor.shape[-1] % 4
    ):
        return tensor
    return tensor.reshape(*tensor.shape[:-1], -1, 2, 2).movedim(-3, -1).transpose(-3, -2).flatten(-3)


_TRANSFORMER_OF_HUGGING_FACE = (
    (r"\.attention\.(attention\.|self\.)?(query|q_proj)\.(\w+)$", r".attn.qkv.\3[0]"),
    (r"\.attention\.(attention\.|self\.)?(key|k_proj)\.(\w+)$", r".attn.qkv.\3[1]"),
    (r"\.attention\.(attention\.|self\.)?(value|v_proj)\.(\w+)$", r".attn.qkv.\3[2]"),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.attention\.\w+\.relative_position_bias_table$", ".attn.relative_position_bias_table"),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"^layernorm\.", "norm."),
)
_KNOWN = (
    OtherNames(
        "Hugging Face",
        r"embedder\.embedder\.convolution\.weight",  # ResNet
        (
            (r"^embedder\.embedder\.convolution\.", "conv1."),
            (r"^embedder\.embedder\.normalization\.", "bn1."),
            (
                r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.convolution\.",
                _one_up("layer{0+1}.{1}.conv{2+1}."),
            ),
            (
                r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.normalization\.",
                _one_up("layer{0+1}.{1}.bn{2+1}."),
            ),
            (
                r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.convolution\.",
                _one_up("layer{0+1}.{1}.downsample.0."),
            ),
            (
                r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.normalization\.",
                _one_up("layer{0+1}.{1}.downsample.1."),
            ),
        ),
    ),
    OtherNames(
        "Hugging Face",
        r"embeddings\.position_embeddings",  # ViT, DeiT, DINOv2
        (
            (r"^embeddings\.position_embeddings$", "pos_embed"),
            (r"^embeddings\.distillation_token$", "dist_token"),
            (r"^embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
            (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
            (r"^(encoder\.)?layers?\.(\d+)\.", r"blocks.\2."),
            (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
            (r"\.mlp\.weights_in\.", ".mlp.w12."),
            (r"\.mlp\.weights_out\.", ".mlp.w3."),
            *_TRANSFORMER_OF_HUGGING_FACE,
        ),
    ),
    OtherNames(
        "Hugging Face",
        r"encoder\.layers\.0\.blocks\.0\.layernorm_before\.weight",  # Swin
        (
            (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
            (r"^embeddings\.norm\.", "patch_embed.norm."),
            (r"^encoder\.layers\.", "layers."),
            *_TRANSFORMER_OF_HUGGING_FACE,
        ),
    ),
    OtherNames(
        "Hugging Face",
        r"encoder\.stages\.0\.layers\.0\.dwconv\.weight",  # ConvNeXt
        (
            (r"^embeddings\.patch_embeddings\.", "stem.0."),
            (r"^embeddings\.layernorm\.", "stem.1."),
            (r"^encoder\.stages\.(\d+)\.downsampling_layer\.", r"stages.\1.downsample."),
            (r"^encoder\.stages\.(\d+)\.layers\.", r"stages.\1.blocks."),
            (r"\.layer_scale_parameter$", ".gamma"),
            (r"\.dwconv\.", ".conv_dw."),
            (r"\.pwconv(\d)\.", r".mlp.fc\1."),
            (r"\.layernorm\.", ".norm."),
            (r"^layernorm\.", "head.norm."),
        ),
    ),
    OtherNames(
        "torchvision",
        r"encoder\.pos_embedding",  # ViT
        (
            (r"^class_token$", "cls_token"),
            (r"^encoder\.pos_embedding$", "pos_embed"),
            (r"^conv_proj\.", "patch_embed.proj."),
            (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
            (r"^encoder\.ln\.", "norm."),
            (r"\.ln_(\d)\.", r".norm\1."),
            (r"\.self_attention\.in_proj_", ".attn.qkv."),
            (r"\.self_attention\.out_proj\.", ".attn.proj."),
            (r"\.mlp\.(0|linear_1)\.", ".mlp.fc1."),
            (r"\.mlp\.(3|linear_2)\.", ".mlp.fc2."),
        ),
    ),
    OtherNames(
        "torchvision",
        r"features\.1\.0\.attn\.relative_position_bias_table",  # Swin
        (
            (r"^features\.0\.0\.", "patch_embed.proj."),
            (r"^features\.0\.2\.", "patch_embed.norm."),
            (r"^features\.(\d+)\.(?=\d)", _halved("layers.{}.blocks.")),
            (r"^features\.(\d+)\.", _halved("layers.{}.downsample.")),
            (r"\.mlp\.0\.", ".mlp.fc1."),
            (r"\.mlp\.3\.", ".mlp.fc2."),
        ),
    ),
    OtherNames(
        "torchvision",
        r"features\.1\.0\.layer_scale",  # ConvNeXt
        (
            (r"^features\.0\.", "stem."),
            (r"^features\.(\d*[13579])\.", _halved("stages.{}.blocks.")),
            (r"^features\.(\d+)\.", _halved("stages.{}.downsample.")),
            (r"\.block\.0\.", ".conv_dw."),
            (r"\.block\.2\.", ".norm."),
            (r"\.block\.3\.", ".mlp.fc1."),
            (r"\.block\.5\.", ".mlp.fc2."),
            (r"\.layer_scale$", ".gamma"),
            (r"^classifier\.0\.", "head.norm."),
        ),
    ),
    OtherNames(
        "OpenMMLab",
        r"layers\.0\.ln1\.weight",  # ViT
        (
            (r"^patch_embed\.projection\.", "patch_embed.proj."),
            (r"^layers\.(\d+)\.ln(\d)\.", r"blocks.\1.norm\2."),
            (r"^layers\.(\d+)\.ffn\.layers\.0\.0\.", r"blocks.\1.mlp.fc1."),
            (r"^layers\.(\d+)\.ffn\.layers\.1\.", r"blocks.\1.mlp.fc2."),
            (r"^layers\.", "blocks."),
            (r"\.attn\.gamma1\.weight$", ".ls1.gamma"),
            (r"\.ffn\.gamma2\.weight$", ".ls2.gamma"),
            (r"^ln1\.", "norm."),
        ),
    ),
    OtherNames(
        "OpenMMLab",
        r"stages\.0\.blocks\.0\.attn\.w_msa\.qkv\.weight",  # Swin
        (
            (r"^patch_embed\.projection\.", "patch_embed.proj."),
            (r"^stages\.", "layers."),
            (r"\.attn\.w_msa\.", ".attn."),
            (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
            (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
            (r"^norm3\.", "norm."),
        ),
        _merged_like_timm,
    ),
    OtherNames(
        "Detectron2",
        r"stem\.conv1\.norm\.weight",  # ResNet
        (
            (r"^stem\.", ""),
            (r"^res(\d)\.", lambda match: f"layer{int(match[1]) - 1}."),
            (r"\bshortcut\.norm\.", "downsample.1."),
            (r"\bshortcut\.", "downsample.0."),
            (r"\bconv(\d)\.norm\.", r"bn\1."),
        ),
    ),
    OtherNames("lightly", r"layer[1-4]\.0\.shortcut\.0\.weight", ((r"\.shortcut\.", ".downsample."),)),
    OtherNames("DINOv2", r"blocks\.\d+\.\d+\.norm1\.weight", ((r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),)),
)


def translated(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Give the parts of a network the names that timm has for them.

    Args:
        tensors: the tensors of a network, without prefix.

    Returns:
        The tensors, and the projects whose names they had; tensors that no rule knows keep their names.
    """
    numbered = _numbered_resnet(tensors)
    state, whose = (numbered, ["a list of layers"]) if numbered else (dict(tensors), [])
    for known in _KNOWN:
        if any(re.fullmatch(known.sign, name) for name in state):
            state = _joined({_renamed(name, known.rules): tensor for name, tensor in state.items()})
            if known.convert is not None:
                state = {name: known.convert(name, tensor) for name, tensor in state.items()}
            whose.append(known.whose)
    return state, tuple(whose)


def places_in_timm(names: Iterable[str]) -> dict[str, tuple[str, int | None]]:
    """Find where timm keeps each tensor of another project's network: :func:`translated`, read the other way.

    Args:
        names: of the tensors of a whole network, without prefix.

    Returns:
        By each name, the name of timm's tensor, and which third of its rows it is; None: all of it.
    """
    places = {name: name for name in names}
    for known in _KNOWN:
        if any(re.fullmatch(known.sign, place) for place in places.values()):
            places = {name: _renamed(place, known.rules) for name, place in places.items()}
    if any(place.startswith("layers.0.downsample.") for place in places.values()):  # timm's Swin merges before a stage
        merged = _one_up("layers.{0+1}.downsample.")
        places = {name: re.sub(r"^layers\.(\d+)\.downsample\.", merged, place) for name, place in places.items()}
    return {
        name: (place[:-3], int(place[-2])) if place.endswith("]") else (place, None) for name, place in places.items()
    }


def _renamed(name: str, rules: tuple[tuple[str, Replacement], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _joined(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join the parts of tensors that end in ``[0]``, ``[1]`` ..., where they are complete."""
    parts = {name: tensor for name, tensor in tensors.items() if name.endswith("]")}
    whole = {name: tensor for name, tensor in tensors.items() if name not in parts}
    for stem in dict.fromkeys(name[:-3] for name in parts):
        rows = [parts[f"{stem}[{number}]"] for number in range(3) if f"{stem}[{number}]" in parts]
        if len(rows) == 3 and len({row.shape for row in rows}) == 1:
            whole[stem] = torch.cat(rows)
    return whole


def _numbered_resnet(tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The names of a ResNet that was made a list of its layers: stem, batch norm, stages, in this order; None if it is none.

    Depending on the ResNet, activation and pooling have numbers of their own.
    """
    numbers = sorted({int(name.partition(".")[0]) for name in tensors if re.match(r"\d{1,3}\.", name)})
    if len(numbers) < 6 or f"{numbers[0]}.weight" not in tensors or f"{numbers[1]}.running_mean" not in tensors:
        return None
    if not all(f"{number}.0.conv1.weight" in tensors for number in numbers[2:6]):
        return None
    names = dict(zip(map(str, numbers), ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"), strict=False))
    split = ((name.partition("."), tensor) for name, tensor in tensors.items())
    return {f"{names.get(first, first)}{dot}{rest}": tensor for (first, dot, rest), tensor in split}
