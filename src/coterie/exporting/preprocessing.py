"""How whole images are prepared for a network that Coterie did not train: its folder, timm's configuration, options."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm

from coterie.data.loading.center_crop import Preprocessing
from coterie.errors import BadConfig, UserError, did_you_mean
from coterie.types import INTERPOLATIONS, Interpolation

LARGEST_SIZE = 4096
"""Pixels; a larger --size is a slip of the keyboard, and would fill the memory."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HUGGING_FACE = "preprocessor_config.json"
_PILLOW: dict[int, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
_UNCROPPED = 384  # Hugging Face's ConvNeXt processor crops only below this size


def of_network(name: str, channels: int, folder: Path) -> tuple[Preprocessing, str]:
    """Find how images are prepared for public weights.

    Args:
        name: the network as timm names it, with a tag (``resnet18.a1_in1k``) where that is known.
        channels: of the network; mean and standard deviation are averaged where they are of other channels.
        folder: where the weights are; a configuration beside them comes first.

    Returns:
        The preprocessing, and where it is from.

    Raises:
        UserError: the folder's configuration is damaged.
    """
    for file, read in ((HUGGING_FACE, _of_hugging_face), ("config.json", _of_timm_folder)):
        found = _read(folder / file, read, channels)
        if found is not None:
            return found, f"{folder / file}"
    known = timm.get_pretrained_cfg(name)
    if known is None:
        mean, std = _for(channels, IMAGENET_MEAN), _for(channels, IMAGENET_STD)
        return Preprocessing(224, channels, mean, std, 0.875, "bicubic"), f"ImageNet's values: timm has none of {name}"
    tag = f".{known.tag}" if getattr(known, "tag", None) else ""
    return _of_timm(known.to_dict(), channels), f"timm's configuration of {name.partition('.')[0]}{tag}"


def with_options(
    found: Preprocessing,
    *,
    size: int | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    crop: float | None = None,
    interpolation: str | None = None,
) -> Preprocessing:
    """Change a preprocessing as a user asks; None leaves a value as it is.

    Args:
        found: the preprocessing of the model.
        size: height and width in pixels.
        mean: of each channel, or one for all, for pixels in [0, 1].
        std: of each channel, or one for all.
        crop: share of the resized short side that is cropped.
        interpolation: how images are resized.

    Raises:
        BadConfig: a value that cannot be, in one line.
    """
    if size is not None:
        if not 1 <= size <= LARGEST_SIZE:
            raise BadConfig(
                f"--size is {size}: give the side of the images in pixels, from 1 to {LARGEST_SIZE}, such as 224"
            )
        found = replace(found, size=size)
    if mean is not None:
        found = replace(found, mean=_checked("mean", mean, found.channels))
    if std is not None:
        found = replace(found, std=_checked("std", std, found.channels))
    if crop is not None:
        if not 0 < crop <= 1:
            raise BadConfig(
                f"--crop is {crop:g}: give the share of the short side that is kept, above 0 and up to 1, as .875"
            )
        found = replace(found, crop=float(crop))
    if interpolation is not None:
        known = next((each for each in INTERPOLATIONS if each == interpolation.lower()), None)
        if known is None:
            near = did_you_mean(interpolation, INTERPOLATIONS)
            raise BadConfig(f"--interpolation is {interpolation!r}: use one of {', '.join(INTERPOLATIONS)}{near}")
        found = replace(found, interpolation=known)
    return found


def _checked(name: str, given: Sequence[float] | float, channels: int) -> tuple[float, ...]:
    values = tuple(map(float, (given,) if isinstance(given, (int, float)) else given))
    if len(values) == 1:
        values *= channels
    if len(values) != channels:
        raise BadConfig(
            f"--{name} has {len(values)} values, and the network reads {channels} channels: give {channels}, or one for all"
        )
    low_enough = all(value <= 1 for value in values)
    if not (low_enough and all(value > 0 if name == "std" else value >= 0 for value in values)):
        shown = ", ".join(f"{value:g}" for value in values)
        remedy = "divide values for pixels from 0 to 255 by 255" if not low_enough else "give values from 0 to 1"
        raise BadConfig(f"--{name} is {shown}, but is meant for pixels from 0 to 1: {remedy}")
    return values


def _of_timm(content: Mapping[str, Any], channels: int) -> Preprocessing:
    """As ``timm.data.resolve_data_config`` reads it."""
    mean, std = (
        tuple(map(float, content.get(key) or usual)) for key, usual in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD))
    )
    size, how = int(content["input_size"][-1]), content.get("interpolation")
    known: Interpolation = next((each for each in INTERPOLATIONS if each == how), "bicubic")
    crop = float(content.get("crop_pct") or 0.875)
    return Preprocessing(size, channels, _for(channels, mean), _for(channels, std), crop, known)


def _of_timm_folder(content: Mapping[str, Any], channels: int) -> Preprocessing | None:
    about = content.get("pretrained_cfg")
    return _of_timm(about, channels) if isinstance(about, Mapping) else None


def _of_hugging_face(content: Mapping[str, Any], channels: int) -> Preprocessing:
    """As transformers' image processors read it: some resize and crop, some crop by a share, some only resize."""
    resized, cropped = _side(content.get("size")), _side(content.get("crop_size"))
    share = content.get("crop_pct")
    if cropped is not None and content.get("do_center_crop", True):
        size, crop = cropped, min(1.0, cropped / (resized or cropped))
    elif resized is not None:
        size, crop = resized, float(share) if share and resized < _UNCROPPED else 1.0
    else:
        size, crop = 224, 1.0
    normalized = content.get("do_normalize", True)
    mean, std = (
        tuple(map(float, content.get(key) or usual)) if normalized else (plain,)
        for key, usual, plain in (("image_mean", IMAGENET_MEAN, 0.0), ("image_std", IMAGENET_STD, 1.0))
    )
    how = _PILLOW.get(content.get("resample", 2), "bicubic")
    return Preprocessing(size, channels, _for(channels, mean), _for(channels, std), crop, how)


def _side(size: Any) -> int | None:
    """A size as transformers writes it: a number, or a height and a width, or a shortest edge."""
    if isinstance(size, Mapping):
        size = size.get("shortest_edge", size.get("height"))
    return None if size is None else int(size)


def _for(channels: int, values: tuple[float, ...]) -> tuple[float, ...]:
    return values if len(values) == channels else (round(sum(values) / len(values), 6),) * channels


def _read(
    path: Path, read: Callable[[Mapping[str, Any], int], Preprocessing | None], channels: int
) -> Preprocessing | None:
    """Read a configuration; None where there is none, or it says nothing about images."""
    if not path.is_file():
        return None
    try:
        return read(json.loads(path.read_text("utf-8")), channels)
    except (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is damaged, or says in an unknown way how images are prepared: remove it, or copy it again"
        ) from error
