"""Sizes that networks take: those that are near a wanted one, and what is said of one that does not fit."""

import pytest

from coterie.errors import BadConfig
from coterie.models.backbone import BackboneConfig, build_backbone
from coterie.models.image_sizes import check_view_sizes, fitting_sizes


@pytest.mark.parametrize(
    ("name", "wanted", "found"),
    [
        ("vit_tiny_patch16_224", (32, 16), (32, 16)),
        ("vit_tiny_patch16_224", (60, 24), (64, 32)),
        ("vit_small_patch14_dinov2", (224, 96), (224, 98)),
        ("vit_small_patch14_dinov2", (32, 32), (28, 28)),
        ("vit_small_patch14_dinov2", (34, 20), (28, 14)),  # none is larger than the one it is laid out for
        ("swin_tiny_patch4_window7_224", (98, 50), (100, 52)),
        ("convnext_atto", (48, 24), (48, 32)),
        ("mobilenetv3_small_050", (33, 17), (33, 17)),
        ("mixer_s32_224", (64, 32), (64, 64)),  # one size only
        ("no_such_network", (33, 17), (33, 17)),  # refused when it is built
    ],
)
def test_the_nearest_size_that_fits(name: str, wanted: tuple[int, ...], found: tuple[int, ...]) -> None:
    assert fitting_sizes(BackboneConfig(name), wanted) == dict(zip(wanted, found, strict=True))


@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2", "convnext_atto", "mixer_s32_224"])
def test_a_real_network_takes_what_was_found(name: str) -> None:
    config = BackboneConfig(name)
    found = fitting_sizes(config, {61, 24}).values()
    check_view_sizes(build_backbone(config, max(found)), config, found)


def test_a_network_of_one_size_says_which() -> None:
    config = BackboneConfig("mixer_s32_224")
    network = build_backbone(config, 64)
    with pytest.raises(BadConfig, match=r"mixer_s32_224 cannot take images of 32 pixels \(.*\): .*; use 64$"):
        check_view_sizes(network, config, [64, 32])
