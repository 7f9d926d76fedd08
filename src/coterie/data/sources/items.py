"""One item of a dataset of the user's own: which part of it is the image and which the label, and what is neither."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from coterie.data.decoding.decode import StoredImage, file_content
from coterie.data.sources.columns import ANY_COLUMNS, IMAGE_NAMES, LABEL_NAMES, Columns, find_columns
from coterie.data.sources.files import read_file
from coterie.errors import NoImages, UserError
from coterie.formatting import first_few
from coterie.paths import expand

KEYS = (*IMAGE_NAMES, "pixels", "pixel_values", "picture", "photo", "x", "data", "arr_0")
"""Common names of images in dictionaries and in files of NumPy."""
_CHANNELS = (1, 3, 4)
_KINDS = "uint8 pixels (an array of [H, W] or [H, W, C], a tensor of [C, H, W], a PIL image), encoded bytes or a path"

Label = int | str | tuple[int | str, ...] | None


class WrongItem(UserError):  # noqa: N818 -- it names the thing
    """Something that cannot be an image, or a label, whatever it holds.

    Args:
        value: What was given; only its type is shown, never its content.
        advice: What to give instead.
    """

    def __init__(self, value: object, advice: str) -> None:
        super().__init__(f"is {describe(value)}: {advice}")


def describe(value: object) -> str:
    """What something is, in a few words, without its content; a text is shown."""
    if isinstance(value, Tensor | np.ndarray):
        kind = "a tensor" if isinstance(value, Tensor) else "an array"
        return f"{kind} {str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, Image.Image):
        return f"a PIL image {value.mode} of {value.width} x {value.height}"
    if isinstance(value, str):
        return f"{value[:60]!r}"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with {first_few([str(key) for key in value], ', ') or 'no keys'}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    name = type(value).__name__
    return name if value is None else f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def image_part(item: Any, columns: Columns = ANY_COLUMNS) -> Any:
    """The image of an item: the item itself, the first of a pair with a label, or what a dictionary holds as image.

    Args:
        item: of a dataset.
        columns: the key of the image in dictionaries, if it has no common name.

    Raises:
        WrongItem: There is none, or it cannot be an image.
    """
    image = item
    if isinstance(item, Mapping) and not _is_encoded(item):
        names = find_columns([*map(str, item)], KEYS, columns.image, "image", "an item")
        found = [item[name] for name in names if item.get(name) is not None]
        if not found:
            raise WrongItem(item, "name the entry that is the image 'image', or give its name as image_column")
        image = min(found, key=lambda each: isinstance(each, str))  # pixels rather than a name
    elif isinstance(item, list | tuple):
        if len(item) not in (1, 2):
            raise WrongItem(item, "give an image, or a pair of image and label")
        if len(item) == 2 and is_image(item[1]):
            raise WrongItem(item, "these are two images: give one image, or a pair of image and label")
        image = item[0]
    _check_image(image)
    return image


def label_part(item: Any, columns: Columns = ANY_COLUMNS) -> Any:
    """The label of an item, as it is; None without one.

    Args:
        item: of a dataset.
        columns: the key of the label in dictionaries, if it has no common name.
    """
    if isinstance(item, Mapping) and not _is_encoded(item):
        names = find_columns([*map(str, item)], LABEL_NAMES, columns.label, "label", "an item")
        return item.get(names[0]) if names else None
    return item[1] if isinstance(item, list | tuple) and len(item) == 2 else None


def is_image(value: object) -> bool:
    """Whether something is a single image: Pillow's, or an array or tensor of its shape."""
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim in (2, 3)
    return isinstance(value, Image.Image)


def check_pixels(pixels: "np.ndarray | Tensor", image: "np.ndarray | Tensor | None" = None) -> None:
    """Check type and layout of pixels.

    Args:
        pixels: What was given.
        image: One image of it; None: it is one.

    Raises:
        WrongItem: Values are not uint8 or uint16, or channels are where they cannot be.
    """
    image = pixels if image is None else image
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] in _CHANNELS:  # the usual case
        return
    name, tensor = str(image.dtype).removeprefix("torch."), isinstance(image, Tensor)
    cast = ".to(torch.uint8)" if tensor else ".astype('uint8')"
    if isinstance(pixels, Tensor) and pixels.device.type != "cpu":
        raise WrongItem(pixels, f"it is on {pixels.device}, where loader workers cannot read it: give it with .cpu()")
    if "float" in name:
        scaled = f"(x * 255){cast}"
        raise WrongItem(
            pixels, f"give uint8 pixels: the dataset without its transform, or {scaled} where values are from 0 to 1"
        )
    if name == "bool":
        raise WrongItem(pixels, f"give uint8 pixels: x{cast} * 255")
    if name.lstrip("<>=") not in ("uint8", "uint16", "u2"):
        integer = "int" in name
        raise WrongItem(pixels, f"give uint8 pixels{f': x{cast} where values are from 0 to 255' if integer else ''}")
    if image.ndim not in (2, 3):
        raise WrongItem(pixels, f"give {_KINDS}")
    if image.ndim == 3:
        first, last = (side in _CHANNELS for side in (image.shape[0], image.shape[2]))
        more = pixels.ndim > image.ndim
        if tensor and last and not first:
            raise WrongItem(pixels, f"tensors have channels first: x.permute({'0, 3, 1, 2' if more else '2, 0, 1'})")
        if not tensor and first and not last:
            raise WrongItem(pixels, f"arrays have channels last: x.transpose({'0, 2, 3, 1' if more else '1, 2, 0'})")


def check_array(images: "np.ndarray | Tensor") -> None:
    """Check an array of images, ``[n, H, W]`` or ``[n, H, W, C]``, or a tensor, ``[n, H, W]`` or ``[n, C, H, W]``.

    Raises:
        WrongItem: It has another shape or type.
        NoImages: It is empty.
    """
    tensor = isinstance(images, Tensor)
    if images.ndim == 1:
        raise WrongItem(images, "labels go into pairs with images: list(zip(images, labels))")
    if images.ndim not in (3, 4) or (images.ndim == 3 and images.shape[2] in _CHANNELS and not tensor):
        one = "that is one image: " if images.ndim in (2, 3) else ""
        raise WrongItem(images, f"{one}give uint8 pixels [n, H, W] or {'[n, C, H, W]' if tensor else '[n, H, W, C]'}")
    if not len(images):
        raise NoImages(f"is {describe(images)}, without images")
    check_pixels(images, images[0])


def _check_image(value: Any) -> None:
    if isinstance(value, Tensor | np.ndarray):
        check_pixels(value)
    elif not (
        isinstance(value, bytes | bytearray | memoryview | str | os.PathLike | Image.Image) or _is_encoded(value)
    ):
        raise WrongItem(value, f"give {_KINDS}")


def read_image(image: Any) -> StoredImage:
    """The image that a part of an item stands for, as a source gives it.

    Raises:
        BadImage: Its file cannot be read.
    """
    if _is_encoded(image):
        image = image["path"] if image.get("bytes") is None else image["bytes"]
    if isinstance(image, str | os.PathLike):
        return read_file(os.fsencode(expand(image)))
    if isinstance(image, Image.Image):
        content = file_content(image)
        return image if content is None else content
    if isinstance(image, Tensor):
        pixels: np.ndarray = image.detach().numpy()
        return pixels.transpose(1, 2, 0) if pixels.ndim == 3 else pixels
    if isinstance(image, np.ndarray):
        return image.astype(np.uint16) if image.dtype.itemsize == 2 else np.asarray(image)
    return bytes(image)


def read_label(value: Any) -> Label:
    """A label as a plain value: a number, a name, several of these, or None.

    Raises:
        WrongItem: It is something else.
    """
    if isinstance(value, Tensor | np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, list | tuple):
        if len(value) == 1 and not isinstance(value[0], list | tuple):
            return read_label(value[0])
        several = tuple(read_label(each) for each in value)
        if any(isinstance(each, tuple) for each in several):
            raise WrongItem(value, "give a label: a number, a name, or a list of these")
        return tuple(each for each in several if each is not None)  # type: ignore[misc]
    if isinstance(value, float):
        if value != value:
            return None
        if value.is_integer():
            return int(value)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return int(value)
    raise WrongItem(value, "give a label: a number, a name, or a list of these")


def _is_encoded(value: object) -> bool:
    """Whether this is Hugging Face's dictionary of an image that is not decoded: ``bytes``, ``path``, or both."""
    return isinstance(value, Mapping) and bool(value) and {*value} <= {"bytes", "path"}
