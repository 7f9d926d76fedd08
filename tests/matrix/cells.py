"""The cells of groups x assignment x target x {batch, epoch}, and the one tiny recipe that trains each of them.

``batch``: the targets of a batch come from the batch. ``epoch``: a refresh gives each image its label for an epoch.
"""

import itertools
from typing import Any, NamedTuple

SIDE, IMAGES, BATCH, EPOCHS, GROUPS = 16, 324, 36, 7, 16
MEAN, STD = (0.45,), (0.22,)


class Cell(NamedTuple):
    """One combination of parts."""

    groups: str
    assignment: str
    target: str
    when: str

    def __str__(self) -> str:
        return "-".join(self)


CELLS = [
    Cell(*kinds)
    for kinds in itertools.product(
        ("learned", "momentum", "kmeans", "batch"),
        ("sinkhorn", "nearest", "softmax", "centered", "identity"),
        ("same", "teacher"),
        ("batch", "epoch"),
    )
]


def makes_no_sense(cell: Cell) -> bool:
    """Whether the parts do not fit.

    Groups that are the batch's own embeddings last for one step, so they can have neither labels nor running means. Only
    with them can each image be its own group.
    """
    if cell.groups == "batch":
        return cell.when == "epoch" or cell.assignment == "centered"
    return cell.assignment == "identity"


REFUSED = [cell for cell in CELLS if makes_no_sense(cell)]
TRAINED = [cell for cell in CELLS if not makes_no_sense(cell)]
METHODS = {
    "swav": Cell("learned", "sinkhorn", "same", "batch"),
    "smog": Cell("momentum", "nearest", "teacher", "batch"),
    "deepcluster-v2": Cell("kmeans", "nearest", "same", "epoch"),
    "sela-v2": Cell("learned", "sinkhorn", "same", "epoch"),
    "dino": Cell("learned", "centered", "teacher", "batch"),
    "msn": Cell("learned", "softmax", "teacher", "batch"),
    "simclr": Cell("batch", "identity", "same", "batch"),
    "resa": Cell("batch", "sinkhorn", "teacher", "batch"),
}
"""What each method is made of."""


def every_pair_of_kinds() -> list[Cell]:
    """The cells of the methods, and more until any two kinds of parts that fit are together in one of them."""

    def pairs(cell: Cell) -> set[Any]:
        return set(itertools.combinations(enumerate(cell), 2))

    chosen = list(METHODS.values())
    missing = set().union(*map(pairs, TRAINED)).difference(*map(pairs, chosen))
    while missing:
        chosen.append(max(TRAINED, key=lambda cell: len(pairs(cell) & missing)))
        missing -= pairs(chosen[-1])
    return chosen


def settings_of(cell: Cell) -> dict[str, Any]:
    """The common recipe, and what the parts of this cell need besides."""
    settings = _recipe() | {part: {"kind": kind} for part, kind in cell._asdict().items() if part != "when"}
    if cell.groups != "batch":
        settings["groups"]["counts"] = [GROUPS]
    if cell.groups == "momentum":
        settings["groups"]["momentum"] = 0.9  # SMoG's 0.99 is for runs with many more steps
    if cell.target == "teacher":
        settings["target"]["momentum"] = 0.9  # likewise
    if cell.when == "epoch" or cell.groups in ("momentum", "kmeans"):  # a refresh needs the memory
        whose = "target" if cell.when == "epoch" and cell.target == "teacher" else "student"
        settings["memory"] = {"length": IMAGES, "start_epoch": 0, "rows_from": whose}
        settings["refresh"] = {"labels": cell.when == "epoch"}
    if cell.when == "epoch" and cell.assignment == "centered":
        settings["assignment"]["momentum"] = 0.5  # the center moves only once per epoch
    if cell.when == "epoch" and cell.assignment == "sinkhorn":  # SeLa: balanced over all images until it converges
        settings["assignment"] |= {"iterations": 100, "tolerance": 1e-3}
    if cell.groups == "learned" and cell.assignment in ("nearest", "softmax"):
        settings["regularizer"] = {
            "kind": "mean_entropy",
            "weight": 2.0,
        }  # nothing else spreads the images; without it the settings are refused
    return settings


def _recipe() -> dict[str, Any]:
    augmentation = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.0, "hue": 0.0, "grayscale": 0.0, "blur": 0.0}
    return {
        "method": "cell",
        "data": [],
        "views": {
            "crops": [{"count": 2, "size": SIDE, "scale": [0.2, 1.0], "augmentation": augmentation}],
            "channels": 1,
            "mean": list(MEAN),
            "std": list(STD),
        },
        "backbone": {"name": "resnet18", "width": 0.125, "stem": "small", "channels": 1},
        "projector": {"hidden": [64], "width": 32},
        "optimizer": {"kind": "adamw", "weight_decay": 1e-4},
        "learning_rate": {"kind": "cosine", "peak": 6e-4, "final": 6e-6, "warmup_epochs": 1},
        "epochs": EPOCHS,
        "batch_size": BATCH,
    }
