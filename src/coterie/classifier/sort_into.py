"""Sorts images into a folder for each predicted label: links to files, or copies."""

import errno
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from PIL import Image

from coterie.atomic import make_folders, writing
from coterie.data.decoding.decode import StoredImage
from coterie.data.sources.file_names import IMAGE_SUFFIXES
from coterie.data.sources.pages import file_path
from coterie.data.sources.source import ImageSource
from coterie.embedding.parquet import valid_utf8
from coterie.errors import BadImage, UserError
from coterie.logger import Logger
from coterie.paths import expand
from coterie.signals import check_interrupted

UNKNOWN = "unknown"
"""Folder of the images that are of no known class."""
NO_LABEL = "no label"
"""Folder of the images none of whose labels is likely, of those that can have several."""


def check_sorting(folder: str | Path, specs: Iterable[str], source: ImageSource) -> None:
    """Refuse, before any image is predicted, what could not be sorted afterwards.

    Args:
        folder: where each label is to get a folder.
        specs: where the images are.
        source: the images.

    Raises:
        UserError: the folder is a file or among the images, or two images have one name.
    """
    root = expand(folder)
    if root.exists() and not root.is_dir():
        raise UserError(f"--sort-into {folder} is a file: name a folder")
    for spec in specs:
        read = expand(spec)
        if read.is_dir() and root.resolve().is_relative_to(read.resolve()):
            raise UserError(f"--sort-into {folder} is in {spec}, where it would be read as more images: choose another")
    names = set[str]()
    for position in range(len(source)):
        if (name := source.name(position)) in names:
            raise UserError(f"two images are called {name}: give each of their folders a --sort-into of its own")
        names.add(name)


def sort_into(folder: str | Path, table: str | Path, source: ImageSource, logger: Logger, *, copy: bool = False) -> int:
    """Put each image of a table of predictions into the folder of its label, under its own name.

    What is there already from the same command stays; anything else in the way is refused before anything is written.

    Args:
        folder: gets a folder for each label, for ``unknown``, and of several labels for none; an image of several labels is in
            each of theirs.
        table: of predictions: a file, or a folder of parts.
        source: the images that were predicted.
        logger: receives progress.
        copy: copy files, which are linked to otherwise; an image that is not a file of its own is always written.

    Returns:
        How many links and files there are.

    Raises:
        UserError: something else is in the way, or the folder cannot be written.
    """
    root, names = expand(folder), dict[str, str]()
    taken: dict[Path, int] = {}
    for position, labels in _labeled(table, source):
        for label in labels:
            if (other := names.setdefault(_safe(label), label)) != label:
                raise UserError(f"the labels {other!r} and {label!r} would share a folder: nothing was sorted")
            target = root / _safe(label) / _target_name(source, position)
            if taken.setdefault(target, position) != position:
                raise UserError(f"two images would both become {target}: nothing was sorted")
            if os.path.lexists(target) and not _is_there(target, source, position, copy):
                raise UserError(f"{target} is there already, and is not this image: choose another --sort-into")
    for target, position in logger.progress(taken.items(), len(taken), "sorting"):
        check_interrupted()
        if not os.path.lexists(target):
            _put(target, source, position, copy)
    return len(taken)


def _labeled(table: str | Path, source: ImageSource) -> Iterator[tuple[int, tuple[str, ...]]]:
    """The position in the source and the folders of each row; rows are in the order of the source, without bad images."""
    position = 0
    for batch in _read(expand(table)):
        for name, label, unknown in zip(
            *(batch[each].to_pylist() for each in ("name", "label", "unknown")), strict=True
        ):
            while position < len(source) and valid_utf8(source.name(position)) != name:
                position += 1
            if position == len(source):
                raise UserError(f"{table} holds predictions of other images, such as {name}: choose another --out")
            labels = (label,) if isinstance(label, str) else tuple(label) or (NO_LABEL,)
            yield position, (UNKNOWN,) if unknown else labels
            position += 1


def _read(table: Path) -> Iterator[pa.RecordBatch]:
    if table.suffix == ".csv":
        types = {"name": pa.string(), "label": pa.string(), "unknown": pa.bool_()}
        parsing, how = pyarrow.csv.ParseOptions(newlines_in_values=True), pyarrow.csv.ConvertOptions(column_types=types)
        yield from pyarrow.csv.read_csv(table, parse_options=parsing, convert_options=how).to_batches()
        return
    for path in sorted(table.glob("part-*.parquet")) if table.is_dir() else [table]:
        yield from pq.ParquetFile(path).iter_batches(columns=["name", "label", "unknown"])


def _safe(name: str) -> str:
    """A name of one folder: a class is named by whoever made the classifier."""
    plain = name.replace("/", "_").replace("\0", "_")
    return f"_{plain}" if plain in ("", ".", "..") else plain


def _target_name(source: ImageSource, position: int) -> PurePosixPath:
    """The name of an image below its label: no name in an archive leads out of the folder."""
    name = source.name(position)
    parts = [_safe(part) for part in name.split("/") if part not in ("", ".", "..")] or [f"{position:08d}"]
    if file_path(source, position) is None and not parts[-1].lower().endswith(IMAGE_SUFFIXES):
        parts[-1] += _suffix(_stored(source, position))
    return PurePosixPath(*parts)


def _stored(source: ImageSource, position: int) -> StoredImage:
    try:
        return source[position]
    except BadImage as error:  # it could be read when it was predicted
        raise UserError(f"{source.name(position)} cannot be read any more: {error}") from error


def _suffix(image: StoredImage) -> str:
    with suppress(OSError):
        if isinstance(image, bytes) and (kind := Image.open(io.BytesIO(image)).format):
            return ".jpg" if kind == "JPEG" else f".{kind.lower()}"
    return ".png"


def _bytes(image: StoredImage) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _is_there(target: Path, source: ImageSource, position: int, copy: bool) -> bool:
    file = file_path(source, position)
    if file is not None and not copy:
        return target.is_symlink() and os.fsencode(target.readlink()) == file
    return target.is_file() and not target.is_symlink() and target.read_bytes() == _bytes(_stored(source, position))


def _put(target: Path, source: ImageSource, position: int, copy: bool) -> None:
    file = file_path(source, position)
    if file is None or copy:
        with writing(target) as part:
            part.write_bytes(_bytes(_stored(source, position)))
        return
    try:
        make_folders(target.parent)
        target.symlink_to(os.fsdecode(file))
    except OSError as error:
        copying = "; give --copy where links are not possible" if error.errno in (errno.EPERM, errno.ENOTSUP) else ""
        raise UserError(f"cannot link {target}: {error.strerror}{copying}") from error
