"""Detectors over the feature maps of networks, and schedules."""

import pytest
import torch

from coterie.detection.detector import DetectorSettings, build_detector
from coterie.detection.schedules import SCHEDULES, DetectionSchedule, rate_at
from coterie.errors import BadConfig
from coterie.models.backbone import BackboneConfig, build_backbone
from coterie.models.feature_maps import find_levels
from tests.detection.conftest import TINY

SMALL_STEM = BackboneConfig("resnet18", width=0.25, stem="small")
SETTINGS = {"short_sides": (64,), "width": 16, "hidden": 16, "regions": 8, "proposals": 20}


@pytest.mark.parametrize(
    ("config", "least", "strides"),
    [
        (TINY, 4, [4, 8, 16, 32]),
        (TINY, 8, [8, 16, 32]),
        (SMALL_STEM, 4, [4, 8]),
        (BackboneConfig("convnext_atto"), 4, [4, 8, 16, 32]),
        (BackboneConfig("swin_tiny_patch4_window7_224"), 4, [4, 8, 16, 32]),
        (BackboneConfig("tf_efficientnet_lite0"), 4, [4, 8, 16, 32]),
    ],
    ids=lambda each: getattr(each, "name", str(each)),
)
def test_the_last_map_of_each_stride_is_used(config, least, strides):
    network = build_backbone(config, 64)
    assert [each.stride for each in find_levels(network, 3, least)] == strides
    assert network.training


def test_a_network_whose_maps_have_one_size_is_refused():
    with pytest.raises(BadConfig, match="VisionTransformer all have one pixel for 16 of the image"):
        find_levels(build_backbone(BackboneConfig("vit_tiny_patch16_224"), 64), 3, 4)


@pytest.mark.parametrize("config", [TINY, SMALL_STEM], ids=["standard", "small stem"])
@pytest.mark.parametrize(("kind", "anchors"), [("faster_rcnn", [32, 64, 128, 256, 512]), ("retinanet", [32, 40, 51])])
def test_detectors_learn_from_and_find_boxes(config, kind, anchors):
    torch.manual_seed(0)
    network = build_backbone(config, 64)
    detector = build_detector(network, DetectorSettings(kind, **SETTINGS), 2, (0.5,) * 3, (0.2,) * 3)
    made = detector.rpn.anchor_generator if kind == "faster_rcnn" else detector.anchor_generator
    sizes = [size for level in made.sizes for size in level]
    assert sizes[: len(anchors)] == anchors
    images = [torch.rand(3, 64, 96), torch.rand(3, 48, 64)]
    boxes = torch.tensor([[5.0, 5, 40, 40]])
    targets = [{"boxes": boxes, "labels": torch.tensor([2])}, {"boxes": boxes[:0], "labels": torch.tensor([]).long()}]
    losses = detector.train()(images, targets)
    sum(losses.values()).backward()
    assert all(each.isfinite() for each in losses.values())
    assert network.conv1.weight.grad.abs().sum() > 0  # the whole network is trained
    with torch.no_grad():
        found = detector.eval()(images)
    assert [set(each) for each in found] == [{"boxes", "labels", "scores"}] * 2
    assert all((each["labels"] >= 1).all() and (each["labels"] <= 2).all() for each in found)


def test_published_values():
    """SwAV's appendix A.5 (rate and warm-up), MoCo's protocol and Detectron2's schedules (the others)."""
    voc, once, twice = (SCHEDULES[name] for name in ("voc", "coco_1x", "coco_2x"))
    assert (voc.learning_rate, voc.warmup, round(voc.warmup_factor, 3)) == (0.1, 1000, 0.333)
    assert (voc.steps, voc.batch_size, [round(24_000 * share) for share in voc.drops]) == (24_000, 16, [18_000, 22_000])
    assert (once.steps, once.learning_rate, [round(90_000 * share) for share in once.drops]) == (
        90_000,
        0.02,
        [60_000, 80_000],
    )
    assert (twice.steps, [round(180_000 * share) for share in twice.drops]) == (180_000, [120_000, 160_000])
    assert (voc.short_sides[0], voc.short_sides[-1], once.short_sides[0], once.short_sides[-1]) == (480, 800, 640, 800)
    assert {each.weight_decay for each in (voc, once, twice)} == {1e-4}


def test_the_learning_rate_warms_up_and_drops():
    schedule = DetectionSchedule(learning_rate=1.0, warmup=10, warmup_factor=0.1, drops=(0.5, 0.75))
    rates = [rate_at(schedule, step, 100) for step in range(100)]
    assert rates[:2] == pytest.approx([0.1, 0.19])
    assert rates[9] < rates[10] == rates[49] == 1.0
    assert rates[50] == rates[74] == pytest.approx(0.1)
    assert rates[75] == rates[99] == pytest.approx(0.01)
    assert rate_at(schedule, 2, 20) == 1.0  # the warm-up is a tenth at most
