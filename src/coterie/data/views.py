"""The plan of the views: which crops an image gives, and which view plays which part."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from coterie.data.crops import Augmentation, Crops
from coterie.data.draws import Draws, draw
from coterie.errors import BadConfig
from coterie.types import Roles

__all__ = ["Augmentation", "Crops", "ViewPlan"]


@dataclass(frozen=True)
class ViewPlan:
    """The views of an image, numbered through the groups of crops, and their three roles.

    Drawing (what is done to a view) is apart from applying (how): ``draw`` gives numbers, and an applier, such as
    ``coterie.data.cpu.apply``, turns an image and these numbers into pixels.

    Attributes:
        crops: the groups of views; SwAV's are two large and six small ones.
        channels: of the images; 3 for colour.
        mean: of each channel, for values from 0 to 1; None = measured at the start of a run.
        std: standard deviation of each channel, likewise.
        student_views: the views that the student sees; None = all.
        target_views: the views that decide the targets; None = those of the first group.
        grouped_views: the views that the groups look at; None = those of the first group.
    """

    crops: tuple[Crops, ...]
    channels: int = 3
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    student_views: tuple[int, ...] | None = None
    target_views: tuple[int, ...] | None = None
    grouped_views: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse a plan that cannot be carried out.

        Raises:
            BadConfig: names the field, its value, the rule and the mend.
        """
        if not self.crops:
            raise BadConfig("views.crops is empty: give at least one group of crops")
        if not 1 <= self.channels <= 64:
            raise BadConfig(f"views.channels cannot be {self.channels}: give 3 for colour, 1 for grey, up to 64")
        if (self.mean is None) != (self.std is None):
            raise BadConfig("views.mean and views.std go together: give both, or neither to have them measured")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) != self.channels:
                raise BadConfig(f"views.{name} is {values}: give {self.channels} numbers, one a channel")
        if self.std is not None and not all(value > 0 for value in self.std):
            raise BadConfig(f"views.std is {self.std}: give numbers above 0")
        for name in ("student_views", "target_views", "grouped_views"):
            views = getattr(self, name)
            if views is not None and not 0 < len(views) == len(set(views) & set(range(self.num_views))):
                raise BadConfig(f"views.{name} is {views}: give views from 0 to {self.num_views - 1}, each once")

    @property
    def num_views(self) -> int:
        """Views an image, V."""
        return len(self.sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The side of each view, in pixels."""
        return tuple(group.size for group in self.crops for _ in range(group.count))

    @property
    def roles(self) -> Roles:
        """Which view plays which part, with nothing left open."""
        first = tuple(range(self.crops[0].count))
        return Roles(
            student_views=tuple(range(self.num_views)) if self.student_views is None else self.student_views,
            target_views=first if self.target_views is None else self.target_views,
            grouped_views=first if self.grouped_views is None else self.grouped_views,
        )

    def draw(self, seed: int, epoch: int, indices: Int[np.ndarray, " b"]) -> Draws:
        """The parameters of all views of these images: a pure function of seed, epoch, image index and view number."""
        return draw(self.crops, seed, epoch, indices)
