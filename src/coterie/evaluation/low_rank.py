"""Whether the features of a run vary along a handful of directions only, from the effective rank in its log."""

from collections.abc import Mapping, Sequence
from typing import Any

from coterie.evaluation.model_selection import snapshot_records

SMALLEST_RANK = 1.4
"""Below this effective rank, one direction holds nine tenths of what distinguishes the features of different images."""
FEWEST_DIRECTIONS = 16
"""With fewer features than this, or fewer images, such a rank is nothing unusual."""
PATIENCE_SNAPSHOTS = 3
"""How many snapshots in a row must have a low rank before there is a warning; at the end of a run, one is enough."""


def is_low_rank(rank: float, width: int, images: int) -> bool:
    """Whether an effective rank is low for so many features of so many images."""
    return rank < SMALLEST_RANK and min(width, images - 1) >= FEWEST_DIRECTIONS


def describe_low_rank(rank: float, width: int) -> str:
    """Say that the rank is low, what this means, and what to change."""
    return (
        f"the features vary along only about {rank:.1f} of {width} directions (effective rank): one direction outweighs all "
        "others. A regularizer spreads them, or a heavier one (--set regularizer.kind=coding_rate), and in deepcluster_v2 a "
        "lower learning_rate.peak. Scale features to unit length before you cluster or compare them (docs/pretrain.md)"
    )


def low_rank_warning(log: Sequence[Mapping[str, Any]], width: int, images: int, *, last: bool) -> str | None:
    """A warning if the newest snapshot and those before it have a low rank: ``PATIENCE_SNAPSHOTS`` in a row, or the last one.

    Early in training a low rank is common and often passes.

    Args:
        log: the lines of ``metrics.jsonl``, with those of the newest snapshot.
        width: number of features.
        images: number of images on which the label-free metrics are measured.
        last: whether the newest snapshot is at the end of the run.
    """
    ranks = [record.figures["effective_rank"] for record in snapshot_records(log) if "effective_rank" in record.figures]
    newest = ranks[-1:] if last else ranks[-PATIENCE_SNAPSHOTS:]
    if len(newest) < (1 if last else PATIENCE_SNAPSHOTS):
        return None
    return describe_low_rank(ranks[-1], width) if all(is_low_rank(rank, width, images) for rank in newest) else None
