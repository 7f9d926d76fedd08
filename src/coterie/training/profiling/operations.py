"""What the network of a run computes, counted without computing: by how much another one would be slower or faster."""

from dataclasses import replace
from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from coterie.config.schema import PretrainConfig
from coterie.models.backbone import BackboneConfig, build_backbone


def forward_operations(config: PretrainConfig) -> float:
    """Floating-point operations of the student's views of an image in a forward pass.

    Args:
        config: settings of the run, whose backbone is one of timm's.
    """
    sizes = [config.views.sizes[view] for view in config.views.roles.student_views]
    backbone = replace(config.backbone, weights=None, channels=config.views.channels)
    return sum(sizes.count(size) * _operations(backbone, size, max(sizes)) for size in set(sizes))


@lru_cache(maxsize=64)
def _operations(backbone: BackboneConfig, size: int, largest: int) -> float:
    """Those of one image of this size, by a network that is laid out for the largest one."""
    with torch.device("meta"), torch.no_grad(), torch.random.fork_rng(devices=[]):
        network = build_backbone(backbone, largest)
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(2, backbone.channels, size, size))
    return float(counter.get_total_flops()) / 2
