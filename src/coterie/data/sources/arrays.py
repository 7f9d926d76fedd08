"""Images that are already in memory."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt

from coterie.data.sources.file_names import FileNames
from coterie.data.sources.labels import Labels, encode_labels, label_at
from coterie.errors import NoImages, UserError


class Arrays:
    """An image source over decoded images.

    Args:
        images: Images ``[H, W]`` or ``[H, W, C]``, uint8 or uint16: one array ``[n, H, W, C]``, or a sequence of arrays that
            may differ in size.
        labels: One label per image (a number, a class name, or None), or None without labels.
        classes: Names of the classes 0, 1, 2, ..., if labels are numbers.
        names: One name per image; None: the zero-padded row number.

    Raises:
        NoImages: There are no images.
        UserError: The number of labels or names differs from that of the images.
    """

    def __init__(
        self,
        images: Sequence[UInt[np.ndarray, "..."]] | UInt[np.ndarray, "n ..."],
        labels: Sequence[int | str | None] | Int[np.ndarray, " n"] | None = None,
        classes: Sequence[str] = (),
        names: Sequence[str] | None = None,
    ) -> None:
        if not len(images):
            raise NoImages("there are no images in these arrays")
        for what, given in (("labels", labels), ("names", names)):
            if given is not None and len(given) != len(images):
                raise UserError(f"{len(given)} {what} for {len(images)} images: give one each")
        self._images = images
        self._names = None if names is None else FileNames(name.encode("utf-8", "surrogateescape") for name in names)
        values = labels.tolist() if isinstance(labels, np.ndarray) else labels
        self.labels: Labels | None
        self.classes: tuple[str, ...]
        self.labels, self.classes = encode_labels(values or (), classes)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> UInt[np.ndarray, "..."]:
        """An image, as it was given."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return self._images[index]

    def name(self, index: int) -> str:
        """The given name of an image, or its zero-padded row number."""
        return f"{index:08d}" if self._names is None else self._names[index]

    def label(self, index: int) -> int | None:
        """The class number of an image, or None."""
        return label_at(self.labels, index)
