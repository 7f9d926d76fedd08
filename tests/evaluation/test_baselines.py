"""Raw pixels and the untrained network."""

from pathlib import Path

import torch

from coterie.data.loading.center_crop import Preprocessing
from coterie.evaluation.baselines import PIXEL_SIDE, raw_pixels, untrained
from coterie.exporting.model import Model
from coterie.models.backbone import BackboneConfig, build_backbone

LOOK = Preprocessing(224, 3, (0.5,) * 3, (0.25,) * 3, interpolation="bicubic")


def test_raw_pixels_are_what_the_network_sees_but_smaller() -> None:
    network, look = raw_pixels(LOOK)
    assert (look.size, look.crop, look.mean, look.interpolation) == (PIXEL_SIDE, 0.875, LOOK.mean, "bicubic")
    images = torch.randn(2, 3, 4, 4)
    assert network(images).equal(images.reshape(2, 48))


def test_small_images_stay_as_they_are() -> None:
    small = Preprocessing(16, 1, (0.5,), (0.25,))
    assert raw_pixels(small)[1] == small


def test_the_untrained_network_follows_from_the_seed_and_touches_no_generator(tmp_path: Path) -> None:
    config = BackboneConfig("resnet18", width=0.125, stem="small")
    model = Model("x", build_backbone(config, 16), config, 16, Preprocessing(16, 3, (0.5,) * 3, (0.5,) * 3))
    images, before = torch.randn(2, 3, 16, 16), torch.get_rng_state()
    first, again, other = (untrained(model, seed, "cpu")(images) for seed in (0, 0, 1))
    assert torch.get_rng_state().equal(before)
    assert first.equal(again)
    assert not first.equal(other)
