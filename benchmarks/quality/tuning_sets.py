"""The images that recipes are tried on, and what of a draw follows from them."""

from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq
from prepare import BUILD, SETS, prepare
from space import Draw

SIDE, COUNT = 32, 10_000
"""Of the images whose crops and numbers of groups the draws name."""
STEPS = 64
"""The planner's batch leaves an epoch so many steps, and has 32 images at least."""


@dataclass(frozen=True)
class Images:
    """A set of images and how they are seen.

    Attributes:
        name: as in ``prepare.py``.
        side: pixels at which whole images are seen; crops are in proportion.
        color: whether they have colors.
        build: where their files are.
    """

    name: str
    side: int
    color: bool = True
    build: Path = BUILD

    def prepared(self, build: Path = BUILD) -> "Images":
        prepare(self.name, build / self.name)
        return replace(self, build=build)

    @property
    def files(self) -> tuple[Path, Path]:
        """What is trained on, whose images also vote, and what is asked."""
        trained, asked = SETS[self.name]["tuning"]
        return self.build / self.name / f"{trained}.parquet", self.build / self.name / f"{asked}.parquet"

    @property
    def count(self) -> int:
        return int(pq.ParquetFile(self.files[0]).metadata.num_rows)

    def pixels(self, drawn: int) -> int:
        return round(drawn * self.side / SIDE)

    def batch(self, draw: Draw) -> int:
        batch = int(draw["batch"])
        while batch > 32 and self.count < STEPS * batch:
            batch //= 2
        return batch

    def groups(self, draw: Draw) -> int:
        return max(10, round(int(draw["groups"]) * min(1, self.count / COUNT)))

    def queue(self, draw: Draw) -> int:
        """As many batches, but no more than half of the images."""
        batch = self.batch(draw)
        return min(int(draw["queue"]) // int(draw["batch"]), self.count // 2 // batch) * batch


CIFAR10 = Images("cifar10", 32)
OTHERS = (Images("patches", 48), Images("steel", 64, color=False))
