"""What the search may change: for each method the settings that a trial draws, and how they become settings of a run.

A draw is a dictionary of plain values. Those of ``SHARED`` mean the same for every method, so that what helped one can be
tried on another; the others are the method's own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

Value = str | float | int
Draw = dict[str, Value]


@dataclass(frozen=True)
class Choice:
    """One of some values; a change goes to any other of them."""

    values: Sequence[Value]

    def draw(self, random: Random) -> Value:
        return random.choice(self.values)

    def change(self, value: Value, random: Random) -> Value:
        return random.choice([each for each in self.values if each != value])


@dataclass(frozen=True)
class Log:
    """A number on a logarithmic scale; a change is a factor of about 2 (a normal deviation of 0.7 in the logarithm)."""

    low: float
    high: float

    def draw(self, random: Random) -> Value:
        return self._rounded(math.exp(random.uniform(math.log(self.low), math.log(self.high))))

    def change(self, value: Value, random: Random) -> Value:
        return self._rounded(min(self.high, max(self.low, float(value) * math.exp(random.gauss(0, 0.7)))))

    @staticmethod
    def _rounded(value: float) -> float:
        return float(f"{value:.2g}")


CROPS = {
    "2x24+2x16": (2, 24, 2, 16),
    "2x24": (2, 24, 0, 0),
    "2x24+4x16": (2, 24, 4, 16),
    "2x20+2x16": (2, 20, 2, 16),
    "2x28+2x16": (2, 28, 2, 16),
    "2x24+2x12": (2, 24, 2, 12),
    "2x16+4x12": (2, 16, 4, 12),
    "4x20": (4, 20, 0, 0),
}
REGULARIZERS = {"coding_rate": 0.01, "variance_covariance": 0.1, "uniformity": 0.1, "koleo": 0.1}
"""The kinds, with the weight in the middle of what is tried."""

SHARED: dict[str, Choice | Log] = {
    "crops": Choice(tuple(CROPS)),
    "large_scale": Choice((0.1, 0.2, 0.35)),  # least share of an image's area in a large crop
    "small_scale": Choice((0.25, 0.4, 0.6)),  # largest share in a small one
    "rate": Log(1e-3, 1.2e-2),  # peak at batch 256, proportional to the square root of the batch
    "weight_decay": Log(1e-5, 1e-1),
    "batch": Choice((64, 128, 256)),
    "warm_up": Choice((0.0, 1.0, 2.0)),  # epochs
    "hidden": Choice(("512", "1024", "512+512")),
    "width": Choice((64, 128, 256)),
    "last_batch_norm": Choice((0, 1)),
    "scope": Choice(("resolution", "view")),
    "tau": Log(0.05, 0.5),
    "regularizer": Choice(("none", *REGULARIZERS)),
    "strength": Log(0.1, 30.0),  # times the weight in the middle
    "alignment": Choice((0.0, 1.0, 3.0)),  # of the views, beside a uniformity of 1
}
TEACHER: dict[str, Choice | Log] = {
    "teacher": Choice((0.0, 0.9, 0.97, 0.99)),  # its first momentum; 0: none
    "predictor": Choice((0, 1)),
    "targets": Choice(("large", "all")),  # the views whose groups are predicted
}
GROUPS: dict[str, Choice | Log] = {"groups": Choice((30, 100, 300, 1000, 3000)), "heads": Choice((1, 3))}
OWN: dict[str, dict[str, Choice | Log]] = {
    "swav": GROUPS | TEACHER | {"epsilon": Log(0.01, 0.1), "queue": Choice((0, 128, 512, 2048))},
    "smog": GROUPS
    | TEACHER
    | {
        "groups_momentum": Choice((0.0, 0.5, 0.9, 0.97, 0.99, 0.999)),
        "groups_start": Choice(("1", "end")),  # its first value; "end": it is constant
        "groups_gradient": Choice((0, 1)),
        "refresh_epochs": Choice((1, 2, 4, 1000)),
        "assignment": Choice(("nearest", "sinkhorn")),
        "epsilon": Log(0.01, 0.1),
    },
    "deepcluster_v2": GROUPS | {"label_epochs": Choice((1, 2, 3, 5))},
    "sela_v2": GROUPS | {"label_epochs": Choice((1, 2, 3, 5)), "epsilon": Log(0.01, 0.1)},
    "simclr": {},
    "alignment": {},  # without groups: what grouping has to beat
    "resa": TEACHER | {"epsilon": Log(0.003, 0.1), "groups_gradient": Choice((0, 1))},
}
"""What each method has of its own."""


def space(method: str) -> dict[str, Choice | Log]:
    """All that a trial of a method may change."""
    return SHARED | OWN[method]
