"""The plan of the views: which crops an image gives, and which view plays which part."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int

from coterie.data.augmentation.crops import Augmentation, Crops
from coterie.data.augmentation.parameters import ViewParameters, sample_parameters
from coterie.errors import BadConfig
from coterie.types import Roles

__all__ = ["Augmentation", "Crops", "ViewPlan"]

Engine = Literal["auto", "cpu", "gpu"]


@dataclass(frozen=True)
class ViewPlan:
    """The views of an image, numbered through the groups of crops, and their roles.

    Drawing (what is done to a view) is apart from applying (how): ``sample_parameters`` gives numbers, and an applier, such as
    ``coterie.data.augmentation.cpu.augment``, turns an image and these numbers into pixels.

    Attributes:
        crops: the groups of views; SwAV's are two large and six small ones. With ``swap`` they are two families: the
            groups of the one, then those of the other, with the same numbers and sizes of views.
        channels: of the images; 3 for color.
        mean: of each channel, for values from 0 to 1; None = measured at the start of a run.
        std: standard deviation of each channel, likewise.
        image_size: side that whole images are brought to where they are judged and embedded; None = of the largest crop.
        student_views: the views that the student sees; None = all (of the first family).
        target_views: the views that decide the targets; None = those of the first group (of the second family).
        grouped_views: the views that the groups look at; None = those of the first group.
        bn_only_views: the views that the target network sees for its batch statistics only.
        engine: who does the colors: ``cpu``, the workers, view by view; ``device``, where the network is, a whole batch at
            once, from crops of the workers or, for small images of one size, from pixels that live there; ``auto``: the device
            if it is a GPU. The two differ by 3 of 255 at most in what a blur rounds (``coterie.data.augmentation.gpu``).
        swap: two families of views, which change places every batch (SMoG). The roles are told for the even steps of an
            epoch; at the odd ones, view v and its like ``v + V / 2`` of the other family stand in for each other.
    """

    crops: tuple[Crops, ...]
    channels: int = 3
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image_size: int | None = None
    engine: Engine = "auto"
    student_views: tuple[int, ...] | None = None
    target_views: tuple[int, ...] | None = None
    grouped_views: tuple[int, ...] | None = None
    bn_only_views: tuple[int, ...] = ()
    swap: bool = False

    def __post_init__(self) -> None:
        """Refuse a plan that cannot be carried out.

        Raises:
            BadConfig: names the field, its value, the rule and the mend.
        """
        if not self.crops:
            raise BadConfig("views.crops is empty: give at least one group of crops")
        if not 1 <= self.channels <= 64:
            raise BadConfig(f"views.channels cannot be {self.channels}: give 3 for color, 1 for gray, up to 64")
        if (self.mean is None) != (self.std is None):
            raise BadConfig("views.mean and views.std go together: give both, or neither to have them measured")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) != self.channels:
                raise BadConfig(f"views.{name} is {values}: give {self.channels} numbers, one a channel")
        if self.image_size is not None and not 1 <= self.image_size <= 4096:
            raise BadConfig(f"views.image_size is {self.image_size}: give pixels, from 1 to 4096")
        if self.std is not None and not all(value > 0 for value in self.std):
            raise BadConfig(f"views.std is {self.std}: give numbers above 0")
        for name in ("student_views", "target_views", "grouped_views", "bn_only_views"):
            views = getattr(self, name)
            needed = name != "bn_only_views"
            if views is not None and not needed <= len(views) == len(set(views) & set(range(self.num_views))):
                raise BadConfig(f"views.{name} is {views}: give views from 0 to {self.num_views - 1}, each once")
        first, second = ([(group.count, group.size) for group in family] for family in self._families)
        if self.swap and first != second:
            raise BadConfig(
                f"views.swap wants two families with the same counts and sizes, but views.crops has "
                f"{_listed(first)} and then {_listed(second)}: make both halves alike, or set views.swap to false"
            )

    @property
    def num_views(self) -> int:
        """Views an image, V."""
        return len(self.sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The side of each view, in pixels."""
        return tuple(group.size for group in self.crops for _ in range(group.count))

    @property
    def whole_size(self) -> int:
        """The side of whole images, in pixels."""
        return max(self.sizes) if self.image_size is None else self.image_size

    @property
    def roles(self) -> Roles:
        """Which view plays which part, with nothing left open; ``roles.at(progress)`` says it for a step."""
        family = self.num_views // 2 if self.swap else 0
        first = tuple(range(self.crops[0].count))
        return Roles(
            student_views=tuple(range(family or self.num_views)) if self.student_views is None else self.student_views,
            target_views=tuple(family + view for view in first) if self.target_views is None else self.target_views,
            grouped_views=first if self.grouped_views is None else self.grouped_views,
            bn_only_views=self.bn_only_views,
            family=family,
        )

    @property
    def _families(self) -> tuple[tuple[Crops, ...], tuple[Crops, ...]]:
        middle = len(self.crops) // 2
        return self.crops[:middle], self.crops[middle:]

    def sample_parameters(self, seed: int, epoch: int, indices: Int[np.ndarray, " b"]) -> ViewParameters:
        """The parameters of all views of these images: a pure function of seed, epoch, image index and view number."""
        return sample_parameters(self.crops, seed, epoch, indices)


def _listed(groups: Sequence[tuple[int, int]]) -> str:
    return " + ".join(f"{count}x{size}" for count, size in groups) or "nothing"
