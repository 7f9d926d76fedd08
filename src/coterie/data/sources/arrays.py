"""Images that are in memory already."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt

from coterie.data.sources.labels import Labels, classify
from coterie.data.sources.names import Names
from coterie.errors import NoImages, UserError


class Arrays:
    """An image source over decoded images.

    Args:
        images: the images, ``[H, W]`` or ``[H, W, C]`` each, uint8 or uint16; one array ``[n, H, W, C]`` or a sequence
            of arrays that may differ in size.
        labels: one label an image: a number, the name of a class, or None; or nothing at all.
        classes: the names of the classes 0, 1, 2 ... where labels are numbers.
        names: one name an image; the zero-padded row number without them.

    Raises:
        NoImages: there is no image.
        UserError: labels or names are not as many as images.
    """

    def __init__(
        self,
        images: Sequence[UInt[np.ndarray, "..."]] | UInt[np.ndarray, "n ..."],
        labels: Sequence[int | str | None] | Int[np.ndarray, " n"] | None = None,
        classes: Sequence[str] = (),
        names: Sequence[str] | None = None,
    ) -> None:
        if not len(images):
            raise NoImages("there is no image in these arrays")
        for what, given in (("labels", labels), ("names", names)):
            if given is not None and len(given) != len(images):
                raise UserError(f"{len(given)} {what} for {len(images)} images: give one each")
        self._images = images
        self._names = None if names is None else Names(name.encode("utf-8", "surrogateescape") for name in names)
        values = labels.tolist() if isinstance(labels, np.ndarray) else labels
        self.labels: Labels | None
        self.classes: tuple[str, ...]
        self.labels, self.classes = classify(values or (), classes)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> UInt[np.ndarray, "..."]:
        """The image as it was given."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return self._images[index]

    def name(self, index: int) -> str:
        """The name that was given, or the zero-padded row number."""
        return f"{index:08d}" if self._names is None else self._names[index]

    def label(self, index: int) -> int | None:
        """The number of the image's class, or None."""
        return None if self.labels is None or self.labels[index] < 0 else int(self.labels[index])
