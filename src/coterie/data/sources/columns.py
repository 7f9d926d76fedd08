"""Which columns of a table hold images and labels: those that the user names, or else those with a common name."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from coterie.errors import BadConfig, did_you_mean

IMAGE_NAMES = (
    *("image", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "img_bytes", "bytes"),
    *("file", "filename", "file_name", "path", "filepath", "file_path", "image_path", "img_path", "image_file"),
    *(
        "image_name",
        "img_name",
        "image_filename",
        "name",
        "image_id",
        "img_id",
        "id",
        "images",
        "imgs",
        "files",
        "paths",
    ),
)
"""Common names of columns that hold images, as bytes or as paths; where several fit, the first of these is taken."""
LABEL_NAMES = (
    *("label", "labels", "target", "targets", "class", "classes", "cls", "category", "categories", "class_name"),
    *("class_label", "label_name", "category_name", "fine_label", "fine_labels", "coarse_label", "coarse_labels"),
    *("class_id", "label_id", "category_id", "target_name", "species", "diagnosis", "dx", "tags", "tag", "y"),
)
"""Common names of columns that hold labels; where several fit, the first of these is taken."""


WhichPages = Literal["first", "all"]


@dataclass(frozen=True)
class Columns:
    """Where images and labels are in tables, shards and files; what is None is found by common names.

    Attributes:
        image: the column of a table that holds the images, as bytes or as paths.
        label: the column of a table that holds the labels.
        label_key: the key of the labels in the ``.json`` files of tar shards; dots lead into nested ones.
        labels: a table of names and labels (CSV, TSV, JSON lines or parquet) beside any source; its labels replace others.
        pages: of a TIFF file of several pages, the ``first`` is the image (also None), or ``all`` are images.
    """

    image: str | None = None
    label: str | None = None
    label_key: str | None = None
    labels: str | None = None
    pages: WhichPages | None = None


ANY_COLUMNS = Columns()
"""Everything is found by common names."""


def find_columns(names: Sequence[str], known: Sequence[str], wanted: str | None, what: str, where: str) -> list[str]:
    """The columns that may hold something, best first.

    Names are compared whatever their case, with spaces and dashes as underscores.

    Args:
        names: the columns that there are.
        known: common names, best first.
        wanted: the name of the column that the user wants; None: any of ``known``.
        what: ``image`` or ``label``, for the message.
        where: the table, for the message.

    Raises:
        BadConfig: the wanted column is not there; lists those that are.
    """
    if wanted is not None:
        found = [name for name in names if name == wanted] or [name for name in names if plain(name) == plain(wanted)]
        if not found:
            raise BadConfig(
                f"{where}: no column {wanted!r} (--{what}-column){did_you_mean(wanted, names)}; "
                f"the columns are: {', '.join(names)}"
            )
        return found[:1]
    by_name: dict[str, str] = {}
    for name in names:
        by_name.setdefault(plain(name), name)
    return [by_name[name] for name in known if name in by_name]


def choice_remark(chosen: str, others: Iterable[str], what: str) -> tuple[str, ...]:
    """A line about a column that was chosen although others fit as well; none if there are no others."""
    rest = ", ".join(others)
    if not rest:
        return ()
    return (f"{what}s are from column {chosen!r}, although {rest} would do as well: choose with --{what}-column",)


def plain(name: str) -> str:
    """A name of a column without case, with underscores for anything between its words; ``fineLabel`` is ``fine_label``."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.strip())
    return re.sub(r"[^0-9a-z]+", "_", words.casefold()).strip("_")
