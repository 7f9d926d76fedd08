"""Split work on rows and centers into chunks, so that the memory for their scores stays bounded."""

import torch
from jaxtyping import Float
from torch import Tensor

CPU_ELEMENTS = 2_000_000
"""Maximum number of elements per chunk on a CPU: what its caches hold (8 MB in float32)."""

CHUNK_ELEMENTS = 32_000_000
"""Maximum number of elements per chunk elsewhere (128 MB in float32)."""


def chunk_slices(count: int, against: int, device: torch.device) -> list[slice]:
    """Split ``count`` rows into consecutive slices whose results fit into one chunk.

    Args:
        count: number of rows N.
        against: number of elements per row, usually the number of centers K.
        device: device of the computation; chunks are smaller on a CPU.

    Returns:
        Slices over the rows, each of at least one row and of at most ``CPU_ELEMENTS`` or ``CHUNK_ELEMENTS`` elements. Empty if
        there are no rows.
    """
    step = max(1, (CPU_ELEMENTS if device.type == "cpu" else CHUNK_ELEMENTS) // max(1, against))
    return [slice(first, min(first + step, count)) for first in range(0, count, step)]


def chunked(rows: Float[Tensor, "n d"], against: int) -> tuple[Tensor, ...]:
    """Split rows into parts whose scores against other rows have at most ``CHUNK_ELEMENTS`` elements, on any device.

    Args:
        rows: the rows to split.
        against: number of rows that each of them is compared with.

    Returns:
        Views of ``rows`` in order, each of at least one row.
    """
    return torch.split(rows, max(1, CHUNK_ELEMENTS // max(1, against)))
