"""Which kind of classifier: by the number of labels."""

from collections.abc import Sequence
from statistics import median
from typing import Literal, get_args

from coterie.errors import BadConfig, did_you_mean

Kind = Literal["knn", "linear", "finetune"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def choose_kind(asked: str | None, counts: Sequence[int]) -> tuple[Kind, str]:
    """Choose the kind of a classifier, and say why.

    Args:
        asked: what the user wants; None: nothing.
        counts: labeled images of each class.

    Raises:
        BadConfig: there is no such kind.
    """
    if asked is not None:
        for kind in KINDS:
            if kind == asked:
                return kind, "as given"
        raise BadConfig(f"--classifier is {asked}: use one of {', '.join(KINDS)}{did_you_mean(asked, KINDS)}")
    usual = median(counts)
    if usual < 2:
        return "knn", "most classes have one labeled image, so the nearest decides"
    return "linear", f"{usual:g} labeled images a class: frozen features, and a layer that is fitted to them in seconds"
