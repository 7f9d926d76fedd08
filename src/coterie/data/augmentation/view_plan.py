"""The plan of the views: which crops are taken of an image, and which role each view plays."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int

from coterie.data.augmentation.multi_crop import Augmentation, Crops
from coterie.data.augmentation.parameters import ViewParameters, sample_parameters
from coterie.data.decoding.pixels import LARGEST_VALUE, ValueRange
from coterie.errors import BadConfig
from coterie.types import Interpolation, Roles

__all__ = ["Augmentation", "Crops", "ViewPlan"]

Engine = Literal["auto", "cpu", "gpu"]


@dataclass(frozen=True)
class ViewPlan:
    """The views of an image, numbered consecutively over the groups of crops, and their roles.

    Sampling is separate from augmenting: ``sample_parameters`` gives numbers, and functions such as
    ``coterie.data.augmentation.cpu.augment`` turn an image and these numbers into pixels.

    Attributes:
        crops: Groups of views; SwAV has two large and six small ones. With ``swap``, the groups of one family followed by
            those of the other, with the same counts and sizes.
        channels: Channels of the images; 3 for color.
        mean: Mean of each channel, for values in [0, 1]; None = measured at the start of a run.
        std: Standard deviation of each channel, likewise.
        image_size: Height and width of whole images in evaluation and embedding; None = size of the largest crop.
        interpolation: How whole images are resized to it: as the weights that a run starts from know it. Crops are always
            resized bilinearly.
        student_views: Views that the student sees; None = all (of the first family).
        target_views: Views from which targets are computed; None = the first group (of the second family).
        grouped_views: Views that update the groups; None = the first group.
        bn_only_views: Views that the teacher sees only for its batch norm statistics.
        engine: What applies colors and blur: ``cpu``, the workers, image by image; ``gpu``, the device of the network, a
            whole batch at once, from crops made by workers or, for small images of one size, from images stored on the
            device; ``auto``, the device if it is a GPU. The two differ by at most 3 of 255, from rounding in the blur
            (see ``coterie.data.augmentation.gpu``).
        swap: Two families of views trade places every batch (SMoG). Roles are given for even steps of an epoch; at odd
            steps, view ``v`` and its counterpart ``v + V / 2`` in the other family replace each other.
        range: Lowest and highest value of images of floating-point, signed or 32-bit values (satellite, CT, SAR), which become
            black and white; None = such images are refused, as their range is not known. Others have that of their bits.
            ``--set views.range=auto`` has it measured.
    """

    crops: tuple[Crops, ...]
    channels: int = 3
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image_size: int | None = None
    interpolation: Interpolation = "bilinear"
    engine: Engine = "auto"
    student_views: tuple[int, ...] | None = None
    target_views: tuple[int, ...] | None = None
    grouped_views: tuple[int, ...] | None = None
    bn_only_views: tuple[int, ...] = ()
    swap: bool = False
    range: ValueRange | None = None

    def __post_init__(self) -> None:
        """Check all values.

        Raises:
            BadConfig: A value is invalid; the message names the field, its value and what to give instead.
        """
        if not self.crops:
            raise BadConfig("views.crops is empty: give at least one group of crops")
        if not 1 <= self.channels <= 64:
            raise BadConfig(f"views.channels cannot be {self.channels}: give 3 for color, 1 for gray, up to 64")
        if self.range is not None:
            check_range(self.range)
        if (self.mean is None) != (self.std is None):
            raise BadConfig("views.mean and views.std go together: give both, or neither to have them measured")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) != self.channels:
                raise BadConfig(f"views.{name} is {values}: give {self.channels} numbers, one per channel")
        if self.image_size is not None and not 1 <= self.image_size <= 4096:
            raise BadConfig(f"views.image_size is {self.image_size}: give pixels, from 1 to 4096")
        if self.std is not None and not all(value > 0 for value in self.std):
            raise BadConfig(f"views.std is {self.std}: give numbers above 0")
        for name in ("student_views", "target_views", "grouped_views", "bn_only_views"):
            views = getattr(self, name)
            required = name != "bn_only_views"
            if views is not None and not required <= len(views) == len(set(views) & set(range(self.num_views))):
                raise BadConfig(f"views.{name} is {views}: give views from 0 to {self.num_views - 1}, each once")
        first, second = ([(group.count, group.size) for group in family] for family in self._families)
        if self.swap and first != second:
            raise BadConfig(
                f"views.swap needs two families with the same counts and sizes, but views.crops has "
                f"{_listed(first)} and then {_listed(second)}: make both halves alike, or set views.swap to false"
            )

    @property
    def num_views(self) -> int:
        """Number of views per image, V."""
        return len(self.sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Height and width of each view, in pixels."""
        return tuple(group.size for group in self.crops for _ in range(group.count))

    @property
    def center_crop_size(self) -> int:
        """Height and width of whole images in evaluation and embedding, in pixels."""
        return max(self.sizes) if self.image_size is None else self.image_size

    @property
    def roles(self) -> Roles:
        """The role of each view, with all defaults filled in; ``roles.at(progress)`` gives those of a step."""
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
        """Sample the parameters of all views of some images: a pure function of seed, epoch, image index and view.

        Args:
            seed: Seed of the run, below 2**64.
            epoch: Epoch, from 0; -1 is the pass that fills the memory before the first epoch.
            indices: Positions of the images in their source.
        """
        return sample_parameters(self.crops, seed, epoch, indices)


def check_range(given: ValueRange) -> None:
    """Refuse a setting ``views.range`` that is none.

    Raises:
        BadConfig: the first number is not below the second, or they are no finite numbers.
    """
    if not -LARGEST_VALUE < given[0] < given[1] < LARGEST_VALUE:
        raise BadConfig(f"views.range is {list(given)}: give the lowest and the highest value, such as [-1000, 1000]")


def _listed(groups: Sequence[tuple[int, int]]) -> str:
    return " + ".join(f"{count}x{size}" for count, size in groups) or "nothing"
