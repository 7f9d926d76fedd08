"""What detectors and segmenters are trained from: a MODEL, or ``none`` for random weights; and in which precision."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coterie.config.hardware import Runtime
from coterie.config.options import (
    DenseOptions,
    DetectionOptions,
    SegmentationOptions,
    machine_options,
    model_options,
)
from coterie.data.loading.center_crop import Preprocessing
from coterie.errors import BadConfig
from coterie.exporting.model import Model, open_model
from coterie.exporting.preprocessing import IMAGENET_MEAN, IMAGENET_STD, with_options
from coterie.logger import Logger
from coterie.models.backbone import BackboneConfig, build_backbone

NEW = "none"
"""In place of a MODEL: random weights."""


def float32_runtime(options: Mapping[str, Any], what: str, logger: Logger) -> Runtime:
    """Where to compute; always in float32: in bfloat16, RetinaNet's loss was not finite after three steps.

    Args:
        options: of a command.
        what: what computes, such as "a detector".
        logger: receives messages and progress.

    Raises:
        BadConfig: bfloat16 is asked for.
    """
    if options.get("precision", "auto") == "bfloat16":
        raise BadConfig(f"--precision is bfloat16: {what} computes in float32; leave it out")
    return Runtime.choose(**machine_options(options) | {"precision": "float32"}, logger=logger)


def refuse_without_boxes_or_masks(options: Mapping[str, Any]) -> None:
    """Refuse options of detectors and segmenters where neither is trained.

    Args:
        options: of ``train``, without ``boxes`` and ``masks``.

    Raises:
        BadConfig: one of them is given.
    """
    given = next((name for name in DenseOptions.__annotations__ if options.get(name) is not None), None)
    if given is None:
        return
    whose, give = "detectors and segmenters", "--boxes FILE or --masks DIR"
    if given in DetectionOptions.__annotations__:
        whose, give = "detectors", "--boxes FILE"
    elif given in SegmentationOptions.__annotations__:
        whose, give = "segmenters", "--masks DIR"
    raise BadConfig(f"--{given.replace('_', '-')} is for {whose}: give {give} too, or leave it out")


def refuse_crops(options: Mapping[str, Any], what: str) -> None:
    """Refuse options of how a square is cut from an image.

    Args:
        options: of a command.
        what: what is trained, such as "a detector".

    Raises:
        BadConfig: one of them is given.
    """
    for name in ("crop", "interpolation"):
        if options.get(name) is not None:
            raise BadConfig(f"--{name} is for networks that see a square of each image: {what} sees the whole")


def open_model_or_new(model: str | Path, options: Mapping[str, Any], what: str, runtime: Runtime) -> Model:
    """Open a MODEL, or build a network with random weights from torch's global generator.

    Args:
        model: a MODEL, or ``none`` for new weights of ``backbone``.
        options: of ``train``; ``size`` is no concern of a MODEL whose images are seen whole.
        what: what is trained, such as "a detector".
        runtime: says the device.

    Raises:
        UserError: there is no such MODEL, or an option that makes no sense, in one line.
    """
    refuse_crops(options, what)
    given = model_options(options)
    size = given.pop("size", None)
    if str(model) != NEW:
        return open_model(model, runtime.device, **given)
    name = given.pop("backbone", None)
    if not isinstance(name, str):
        raise BadConfig("MODEL none: name the network of the new weights, as in --backbone resnet18")
    look = with_options(Preprocessing(size or 224, 3, IMAGENET_MEAN, IMAGENET_STD), size=size, **given)
    config = BackboneConfig(name)
    network = build_backbone(config, look.size).to(runtime.device)
    return Model(NEW, network, config, look.size, look, lines=(f"{name}: new weights", f"images: {look}"))
