"""Which sizes of images a network takes: transformers split images into patches, and some networks take one size only."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice

import torch
from torch import nn

from coterie.errors import BadConfig
from coterie.models.backbone import BackboneConfig, build_backbone, feature_width, first_line

FARTHEST = 32
"""How far from a view's size, in pixels, one that fits is looked for: half of the largest patches of timm's networks, twice."""
FARTHEST_IMAGE = 64
"""The same for whole images, for which the network may be laid out anew."""


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
                layout = max(sizes)
                takes = partial(_takes, _blank(config, layout), config)
                near = _nearest(takes, size, FARTHEST) or [each for each in (layout,) if takes(each)]
                use = f"; use {' or '.join(map(str, near))}" if near else ""
                raise BadConfig(
                    f"{config.name} cannot take images of {size} pixels (views.crops.N.size, views.image_size): {why}{use}"
                )
    finally:
        backbone.train(training)


def check_image_size(network: nn.Module, config: BackboneConfig, size: int) -> None:
    """Check that a network turns images of a size into one vector each, by encoding a blank one.

    Args:
        network: in evaluation mode.
        config: its settings.
        size: height and width in pixels.

    Raises:
        BadConfig: it does not; the line names the nearest sizes that it takes.
    """
    if not _takes(network, config, size):
        raise refused_size(config, size)


def refused_size(config: BackboneConfig, size: int) -> BadConfig:
    """The error for a size that a network does not take even if it is laid out for it, with the nearest sizes that it takes."""
    near = _nearest(lambda each: _takes(_blank(config, each), config, each), size, FARTHEST_IMAGE)
    which = "the nearest sizes that it takes are" if len(near) == 2 else "the nearest that it takes is"
    remedy = f"{which} {' and '.join(map(str, near))}" if near else "give another --size"
    return BadConfig(f"{config.name} does not take images of {size} pixels: {remedy}")


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
    layout, network = _layout(config, largest)
    if network is None:
        return {size: size for size in sizes}
    found = {largest: layout}
    for size in sorted(set(sizes) - {largest}):
        near = (each for each in _around(min(size, layout)) if each < layout and _takes(network, config, each))
        found[size] = next(near, layout)
    return found


def _layout(config: BackboneConfig, largest: int) -> tuple[int, nn.Module | None]:
    """The size nearest to the largest that a network takes if it is laid out for it, and that network; None: there is none."""
    network = _blank(config, largest)
    fitting = (each for each in _around(largest) if _takes(network, config, each))
    taken = list(islice(fitting, 1))
    if taken == [largest]:
        return largest, network
    for size in [*taken, *_around(largest)]:  # few networks take none but the size that they are laid out for
        network = _blank(config, size)
        if _takes(network, config, size):
            return size, network
    return largest, None


def _nearest(takes: Callable[[int], bool], size: int, farthest: int) -> list[int]:
    """The nearest sizes below and above that are taken, as far as there are any."""
    below, above = range(size - 1, max(0, size - farthest), -1), range(size + 1, size + farthest)
    near = (next(filter(takes, side), None) for side in (below, above))
    return [each for each in near if each is not None]


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


def _takes(network: nn.Module | None, config: BackboneConfig, size: int) -> bool:
    return network is not None and _why_not(network, config, size) is None


@torch.no_grad()
def _why_not(backbone: nn.Module, config: BackboneConfig, size: int) -> str | None:
    """Why a network does not take images of a size; None if it does."""
    like = next(backbone.parameters())
    image = torch.zeros(1, config.channels, size, size, dtype=like.dtype, device=like.device)
    try:
        features = backbone(image)
    except (RuntimeError, AssertionError, ValueError, NotImplementedError) as error:
        return first_line(str(error)).rstrip(".")
    if features.shape != (1, feature_width(backbone)):
        raise BadConfig(
            f"{config.name} returns {tuple(features.shape)} for one image instead of a feature vector: choose another backbone"
        )
    return None
