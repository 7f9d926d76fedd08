"""Which sizes of images a backbone takes: transformers split images into patches, and some networks take one size only."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

import torch
from torch import nn

from coterie.errors import BadConfig
from coterie.models.backbone import BackboneConfig, build_backbone, feature_width, first_line

FARTHEST = 32
"""How far from a size, in pixels, one that fits is looked for: half of the largest patches of timm's networks, twice."""


def check_view_sizes(backbone: nn.Module, config: BackboneConfig, sizes: Iterable[int]) -> None:
    """Check that the network accepts all view sizes, by encoding one blank image of each; changes nothing.

    Args:
        backbone: the network.
        config: its settings.
        sizes: sides of the views in pixels.

    Raises:
        BadConfig: the network does not accept a size, with the nearest ones that it does; or it does not return one vector
            per image.
    """
    sizes = sorted(set(sizes))
    training = backbone.training
    backbone.eval()
    try:
        for size in sizes:
            why = _why_not(backbone, config, size)
            if why is not None:
                near = _nearest(backbone, config, size, max(sizes))
                use = f"; use {' or '.join(map(str, near))}" if near else ""
                raise BadConfig(
                    f"{config.name} cannot take images of {size} pixels (views.crops.N.size, views.image_size): {why}{use}"
                )
    finally:
        backbone.train(training)


def fitting_sizes(config: BackboneConfig, sizes: Collection[int]) -> dict[int, int]:
    """Find the size nearest to each that a network takes, if it is laid out for the largest of them.

    Sizes are tried on a network without numbers (on torch's meta device), so nothing is computed. A size that has none near it,
    as in networks that take one size only, becomes the largest. Where nothing fits the sizes stay, to be refused when the
    network is built.

    Args:
        config: settings of the network.
        sizes: sides of the views in pixels.
    """
    largest = max(sizes)
    layout = _layout(config, largest)
    network = None if layout is None else _blank(config, layout)
    if layout is None or network is None:
        return {size: size for size in sizes}
    found = {}
    for size in sizes:
        near = (
            each for each in _around(min(size, layout)) if each <= layout and _why_not(network, config, each) is None
        )
        found[size] = layout if size == largest else next(near, layout)
    return found


def _layout(config: BackboneConfig, largest: int) -> int | None:
    """The size nearest to the largest that a network takes if it is laid out for it; None: there is none."""
    network = _blank(config, largest)
    taken = (
        [] if network is None else [each for each in _around(largest) if _why_not(network, config, each) is None][:1]
    )
    for size in [*taken, *_around(largest)]:  # few networks take none but the size that they are laid out for
        network = _blank(config, size)
        if network is not None and _why_not(network, config, size) is None:
            return size
    return None


def _nearest(backbone: nn.Module, config: BackboneConfig, size: int, layout: int) -> list[int]:
    """The nearest sizes below and above that a network takes; or the one that it is laid out for; or none."""
    blank = _blank(config, layout)
    if blank is None:
        return []
    below, above = range(size - 1, max(0, size - FARTHEST), -1), range(size + 1, size + FARTHEST)
    near = [next((each for each in side if _why_not(blank, config, each) is None), None) for side in (below, above)]
    found = [each for each in near if each is not None]
    return found or [each for each in (layout,) if _why_not(blank, config, each) is None]


def _around(size: int) -> Iterator[int]:
    """A size, and those ever farther from it, the larger first."""
    yield size
    for distance in range(1, FARTHEST + 1):
        yield size + distance
        if size > distance:
            yield size - distance


def _blank(config: BackboneConfig, size: int) -> nn.Module | None:
    """A network without numbers that is laid out for a size; None if it cannot be."""
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            return build_backbone(replace(config, drop_path=0.0, weights=None), size).eval()
    except (BadConfig, NotImplementedError):
        return None


@torch.no_grad()
def _why_not(backbone: nn.Module, config: BackboneConfig, size: int) -> str | None:
    """Why a network does not take images of a size; None if it does."""
    like = next(backbone.parameters())
    image = torch.zeros(1, config.channels, size, size, dtype=like.dtype, device=like.device)
    try:
        features = backbone(image)
    except (RuntimeError, AssertionError, ValueError, NotImplementedError) as error:
        return first_line(str(error))
    if features.shape != (1, feature_width(backbone)):
        raise BadConfig(
            f"{config.name} returns {tuple(features.shape)} for one image instead of a feature vector: choose another backbone"
        )
    return None
