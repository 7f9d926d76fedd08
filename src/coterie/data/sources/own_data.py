"""Images that a user gives in Python: paths, lists, arrays, tensors, and the datasets of torch and Hugging Face."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeGuard, runtime_checkable

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset

from coterie.data.decoding.decode import StoredImage
from coterie.data.sources.columns import ANY_COLUMNS, Columns
from coterie.data.sources.content import content_key
from coterie.data.sources.items import WrongItem, check_array, describe, image_part, is_image, read_image
from coterie.data.sources.label_table import with_labels
from coterie.data.sources.label_values import ImageLabels
from coterie.data.sources.labels import LabelMatrix, Labels, label_at
from coterie.data.sources.open import FROM_PYTHON, open_source
from coterie.data.sources.own_labels import find_labels
from coterie.data.sources.pages import with_pages
from coterie.data.sources.source import Concatenated, ImageSource, image_remarks, label_notes, random_positions
from coterie.data.sources.tables import read_table
from coterie.errors import BadImage, NoImages, UserError, first_cause
from coterie.logger import Logger, NullLogger

_CHECKED = 16
"""How many items are read twice before they are used."""
_DESCRIBED = 100
"""By how many of its items a list is described."""
_ITEMS = "encoded images, paths, uint8 arrays or PIL images, with or without labels"
_GIVE = f"give a path, a list of {_ITEMS}, an array [n, H, W, C], or a dataset of torch or Hugging Face"


@runtime_checkable
class Items(Protocol):
    """Anything with a length whose items are images, alone or with a label."""

    def __len__(self) -> int:
        """The number of images."""

    def __getitem__(self, index: Any, /) -> Any:
        """An image, a pair of image and label, or a dictionary with ``image`` and ``label``."""


Data = str | os.PathLike[str] | Items
"""What functions take as images: one or several paths, as on the command line, or images of the user's own:

a list, array or dataset (of torch, Hugging Face, or anything with ``__len__`` and ``__getitem__``) whose items are encoded
bytes, paths, uint8 or uint16 arrays ``[H, W]`` or ``[H, W, C]``, tensors ``[H, W]`` or ``[C, H, W]``, or PIL images, alone, in
a pair with a label, or in a dictionary with ``image`` and ``label``; or an image source of Coterie.
"""


@dataclass(frozen=True)
class GivenData:
    """Images that were given.

    Attributes:
        specs: where they are, or for ``config.toml`` what they are; empty if nothing was given.
        source: the images, if they cannot be opened by ``specs``.
    """

    specs: tuple[str, ...]
    source: ImageSource | None = None

    def open(
        self, columns: Columns = ANY_COLUMNS, logger: Logger | None = None, *, tell_labels: bool = False
    ) -> ImageSource:
        """The images themselves.

        Args:
            columns: where images and labels are; a table of labels replaces those that images of the caller's own have.
            logger: is told how images were found, where that was a choice.
            tell_labels: say the same of their labels; what evaluates them does so itself.
        """
        if self.source is None:
            source = open_source(*self.specs, columns=columns, logger=logger)
        else:
            table = None if columns.labels is None else read_table(columns.labels)
            source = self.source if table is None else with_labels(self.source, table, columns)
            source = with_pages(source, columns, logger)
        if logger is not None:
            for line in (*image_remarks(source), *(label_notes(source).remarks if tell_labels else ())):
                logger.warning(line)
        return source


class OwnData:
    """An image source over a dataset of the user's own. Items are read when they are needed, by whatever process needs them.

    An item that raises an error when it is read is a bad image; so is one that cannot be decoded.

    Args:
        items: The dataset.
        columns: The keys of image and label in dictionaries, if they have no common names.
        read_labels: Read every item for its label, where labels are not to be had without the images.
        logger: Receives the progress of that.
    """

    def __init__(
        self, items: Items, columns: Columns = ANY_COLUMNS, read_labels: bool = False, logger: Logger | None = None
    ) -> None:
        self.items: Items = list(items) if isinstance(items, list | tuple) else items
        self.columns, self._read_labels, self._logger = columns, read_labels, logger or NullLogger()
        self._found: ImageLabels | None = None

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> StoredImage:
        """An image.

        Raises:
            BadImage: Reading it raises an error, or it is something else.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        try:
            return read_image(image_part(self.items[int(index)], self.columns))
        except WrongItem as error:
            raise BadImage(f"this item {error}") from error
        except (UserError, MemoryError):
            raise
        except Exception as error:  # a dataset may raise anything
            raise BadImage(f"reading this item raises {first_cause(error)}") from error

    def name(self, index: int) -> str:
        """The path of an image in a list of paths, or else its zero-padded number."""
        item = self.items[index] if isinstance(self.items, list) else None
        path = item[0] if isinstance(item, list | tuple) else item
        return os.fspath(path) if isinstance(path, str | os.PathLike) else f"{index:08d}"

    def label(self, index: int) -> int | None:
        """The class number of an image, or None."""
        return label_at(self.labels, index)

    @property
    def labels(self) -> Labels | None:
        """The class numbers of all images, -1 for none; None without labels, or where images have several."""
        return self._labels.numbers

    @property
    def label_matrix(self) -> LabelMatrix | None:
        """The labels of images that have several; None where they have one each."""
        return self._labels.matrix

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels 0, 1, 2, ...; () without labels."""
        return self._labels.classes

    @property
    def _labels(self) -> ImageLabels:
        if self._found is None:
            self._found = find_labels(self.items, self.columns, self._read_labels, self._logger)
        return self._found


def given_data(
    data: Any,
    what: str = "data",
    *,
    columns: Columns = ANY_COLUMNS,
    read_labels: bool = False,
    logger: Logger | None = None,
) -> GivenData:
    """Tell paths from images, and check images before they are used.

    Args:
        data: what a caller gave as :data:`Data`.
        what: its name, for messages.
        columns: the keys of image and label in dictionaries, if they have no common names.
        read_labels: labels are needed: read every item for its label, if they are not to be had without.
        logger: receives the progress of that.

    Raises:
        UserError: it is neither paths nor images, or an item differs when it is read twice; in one line.
    """
    if isinstance(data, str | os.PathLike):
        return GivenData((os.fsdecode(data),))
    if isinstance(data, np.ndarray) and data.dtype.kind in "UO" and data.ndim == 1:
        data = data.tolist()
    if data is None or (isinstance(data, list | tuple) and not data):
        return GivenData(())
    if isinstance(data, list | tuple) and all(isinstance(each, str | os.PathLike) for each in data):
        return GivenData(tuple(os.fsdecode(each) for each in data))
    if _is_source(data):
        return GivenData((f"{FROM_PYTHON}{type(data).__name__} of {len(data)} images",), data)
    _check_kind(data, what)
    if isinstance(data, list | tuple) and any(_is_set(each) for each in data):
        return _several(data, what, columns, read_labels, logger)
    source = OwnData(data, columns, read_labels, logger)
    _check_items(source, what)
    if read_labels:
        _ = source.classes  # what cannot be a label is refused now
    return GivenData((FROM_PYTHON + _described(data, columns),), source)


def _is_source(data: object) -> TypeGuard[ImageSource]:
    """Whether this is an image source of ours, or one like them; of torch's datasets some have ``classes`` too."""
    methods = (getattr(data, name, None) for name in ("name", "label"))
    return all(map(callable, methods)) and isinstance(data, ImageSource)


def _several(data: Iterable[Any], what: str, columns: Columns, read_labels: bool, logger: Logger | None) -> GivenData:
    """Several datasets one after another, or paths among them; their pages are found when all are opened."""
    whole = replace(columns, pages=None)
    parts = [
        given_data(each, f"item {number} of {what}", columns=columns, read_labels=read_labels, logger=logger)
        for number, each in enumerate(data)
    ]
    return GivenData(
        tuple(spec for part in parts for spec in part.specs), Concatenated([part.open(whole) for part in parts])
    )


def _is_set(value: object) -> bool:
    """Whether an item of a list is itself a whole dataset."""
    if isinstance(value, np.ndarray | Tensor):
        return value.ndim == 4
    if isinstance(value, str | bytes | bytearray | memoryview | list | tuple | Mapping | Image.Image):
        return False
    return isinstance(value, Items)


def _check_kind(data: Any, what: str) -> None:
    """Refuse what is no dataset, with what to give instead."""
    if isinstance(data, np.ndarray | Tensor):
        try:
            check_array(data)
        except UserError as error:
            raise UserError(f"{what} {error}") from None
        return
    module = type(data).__module__.partition(".")[0]
    advice = None
    if isinstance(data, Mapping):
        first = next(iter(data), "train")
        advice = f"give one of its values, such as {what}[{str(first)!r}], or pairs: list(zip(images, labels))"
    elif module in ("pandas", "polars", "pyarrow"):
        advice = "give a list of its values: list(zip(table['image'], table['label']))"
    elif isinstance(data, bytes | bytearray | memoryview) or is_image(data):
        advice = f"that is one image: give a list of {_ITEMS}"
    elif isinstance(data, IterableDataset) or (not hasattr(data, "__getitem__") and hasattr(data, "__iter__")):
        loader = getattr(data, "dataset", None)
        advice = "its items have no numbers: give list(...) of it, or a dataset with __len__ and __getitem__"
        if loader is not None:
            advice = "give its dataset, .dataset: batches and order are made anew"
    elif not isinstance(data, Items):
        missing = "__len__" if hasattr(data, "__getitem__") else ""
        advice = "it has no __len__" if missing else _GIVE
    elif isinstance(data, type):
        advice = _GIVE
    if advice is not None:
        raise UserError(f"{what} {WrongItem(data, advice)}")
    if not len(data):
        raise NoImages(f"{what} is {describe(data)} without images")


def _check_items(source: OwnData, what: str) -> None:
    """Check the kind of the items, and read some of them twice: views are to be made of the same images in every epoch."""
    positions = sorted({0, *random_positions(_CHECKED, len(source)).tolist()})
    every = isinstance(source.items, list)
    for position in range(len(source)) if every else positions:
        _check_item(source, position, what)
    failed: list[str] = []
    for position in positions:
        twice = [_read_key(source, position, failed) for _ in range(2)]
        if twice[0] != twice[1]:
            raise UserError(
                f"item {position} of {what} differs when it is read twice: give the dataset without random transforms, as "
                "Coterie makes random views itself and a run could not be resumed"
            )
    if len(failed) == 2 * len(positions):
        raise NoImages(f"not one of {len(positions)} items of {what} can be read; the first: {failed[0]}")


def _check_item(source: OwnData, position: int, what: str) -> None:
    try:
        item = source.items[position]
    except Exception:  # a bad image, of which there may be some
        return
    try:
        image_part(item, source.columns)
    except WrongItem as error:
        raise UserError(f"item {position} of {what} {error}") from None


def _read_key(source: OwnData, position: int, failed: list[str]) -> str | None:
    try:
        return content_key(source[position])
    except BadImage as error:
        failed.append(f"{source.name(position)}: {error}")
        return None


def _described(data: Any, columns: Columns) -> str:
    """What a dataset is, for ``config.toml``: its kind, length and the kind of its items."""
    if isinstance(data, np.ndarray | Tensor):
        return describe(data).partition(" ")[2]
    if not isinstance(data, list | tuple):
        return f"{type(data).__module__}.{type(data).__qualname__} of {len(data)} images"
    images = [image_part(each, columns) for each in data[:_DESCRIBED]]
    names = {np.ndarray: "arrays", Tensor: "tensors", Image.Image: "PIL images", bytes: "encoded images"}
    what = next((name for kind, name in names.items() if all(isinstance(each, kind) for each in images)), "images")
    return f"list of {len(data)} {what}"
