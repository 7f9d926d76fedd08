"""How much is computed at a time: bounded parts of rows against centers."""

import torch
from jaxtyping import Float
from torch import Tensor

CPU_ELEMENTS = 2_000_000
"""How many numbers of rows, or of scores, are worked on at a time on a CPU: what its caches hold (8 MB in float32)."""


def chunk_slices(count: int, against: int, device: torch.device) -> list[slice]:
    """``count`` rows in slices that, with so many numbers for each row, fit into a bounded memory."""
    step = max(1, (CPU_ELEMENTS if device.type == "cpu" else CHUNK_ELEMENTS) // max(1, against))
    return [slice(first, min(first + step, count)) for first in range(0, count, step)]


CHUNK_ELEMENTS = 32_000_000
"""How many scores are held at a time (128 MB in float32)."""


def chunked(rows: Float[Tensor, "n d"], against: int) -> tuple[Tensor, ...]:
    """``rows`` in parts whose scores with ``against`` others are at most ``CHUNK_ELEMENTS``."""
    return torch.split(rows, max(1, CHUNK_ELEMENTS // max(1, against)))
