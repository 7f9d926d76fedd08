"""Detectors: torchvision's Faster and Mask R-CNN with a feature pyramid and RetinaNet, over the feature maps of a MODEL."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

from torch import nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

from coterie.detection.pyramid import Pyramid
from coterie.models.feature_maps import Level, find_levels

DetectorKind = Literal["faster_rcnn", "mask_rcnn", "retinanet"]
RATIOS = (0.5, 1.0, 2.0)
"""Of height to width of the anchors."""
SCALES = 3
"""Anchors of each ratio at a place, in RetinaNet."""
ANCHORS = SCALES * len(RATIOS)
"""Anchors at a place, in RetinaNet."""
POOLED = 7
"""Height and width in pixels of a region as the box head sees it."""
MASK_POOLED, MASK_LAYERS = 14, 4
"""The same of the mask head, and its convolutions (He et al. 2017)."""


@final
@dataclass(frozen=True)
class DetectorSettings:
    """Everything by which a detector is built over a network.

    Attributes:
        kind: ``faster_rcnn`` (Ren et al. 2015, with a feature pyramid), ``mask_rcnn`` (He et al. 2017, likewise) or
            ``retinanet`` (Lin et al. 2017).
        short_sides: in pixels, to one of which the short side of a training image is resized, at random; the last one of all
            others.
        longest: most pixels of the long side, whatever the short side is then.
        width: channels of the feature pyramid, and of the mask head.
        hidden: width of the two layers of the box head of ``faster_rcnn`` and ``mask_rcnn``, as the following.
        regions: regions of an image that the box head is trained on.
        proposals: regions of an image that are proposed.
    """

    kind: DetectorKind = "faster_rcnn"
    short_sides: tuple[int, ...] = (800,)
    longest: int = 1333
    width: int = 256
    hidden: int = 1024
    regions: int = 512
    proposals: int = 2000


def build_detector(
    network: nn.Module,
    settings: DetectorSettings,
    categories: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> nn.Module:
    """Build a detector: torchvision's, which takes a list of images ``[C, H, W]`` in [0, 1], and targets while it is trained.

    Its layers are initialized as torchvision does it, from torch's global generator.

    Args:
        network: of timm, shared and not copied.
        settings: of the detector.
        categories: how many kinds of objects there are.
        mean: of each channel, for the images of the network.
        std: likewise.

    Raises:
        BadConfig: the network has no feature maps of several sizes.
    """
    looks: dict[str, Any] = {"image_mean": list(mean), "image_std": list(std)}
    looks |= {"min_size": settings.short_sides, "max_size": settings.longest}
    faster = settings.kind != "retinanet"
    levels = find_levels(network, len(mean), 4 if faster else 8)
    built = _regions if faster else _retinanet
    return built(network, levels, settings, categories + 1, looks)


def _regions(
    network: nn.Module, levels: Sequence[Level], settings: DetectorSettings, classes: int, looks: dict[str, Any]
) -> nn.Module:
    """Class 0 is the background; an anchor is eight times its stride: 32 to 512 pixels for strides of 4 to 64, as published."""
    pyramid = Pyramid(network, levels, settings.width, top=64)
    own = [str(place) for place in range(len(levels))]  # regions are cut from the network's own maps
    masks: dict[str, Any] = {}
    if settings.kind == "mask_rcnn":
        masks = {
            "mask_roi_pool": MultiScaleRoIAlign(own, MASK_POOLED, 2),
            "mask_head": MaskRCNNHeads(settings.width, (settings.width,) * MASK_LAYERS, 1),
            "mask_predictor": MaskRCNNPredictor(settings.width, settings.width, classes),
        }
    detector: nn.Module = (MaskRCNN if masks else FasterRCNN)(
        pyramid,
        rpn_anchor_generator=AnchorGenerator(
            tuple((8 * stride,) for stride in pyramid.strides), (RATIOS,) * len(pyramid.strides)
        ),
        rpn_pre_nms_top_n_train=settings.proposals,
        rpn_post_nms_top_n_train=settings.proposals,
        rpn_pre_nms_top_n_test=max(1, settings.proposals // 2),
        rpn_post_nms_top_n_test=max(1, settings.proposals // 2),
        box_roi_pool=MultiScaleRoIAlign(own, POOLED, 2),
        box_head=TwoMLPHead(settings.width * POOLED**2, settings.hidden),
        box_predictor=FastRCNNPredictor(settings.hidden, classes),
        box_batch_size_per_image=settings.regions,
        **masks,
        **looks,
    )
    return detector


def _retinanet(
    network: nn.Module, levels: Sequence[Level], settings: DetectorSettings, classes: int, looks: dict[str, Any]
) -> nn.Module:
    """Three anchors a ratio, from four times the stride on, as published; no object has torchvision's class 0."""
    pyramid = Pyramid(network, levels, settings.width, top=None)
    sizes = tuple(
        tuple(round(4 * stride * 2 ** (each / SCALES)) for each in range(SCALES)) for stride in pyramid.strides
    )
    anchors = AnchorGenerator(sizes, (RATIOS,) * len(sizes))
    detector: nn.Module = RetinaNet(pyramid, classes, anchor_generator=anchors, detections_per_img=100, **looks)
    return detector
