"""What a file of tensors holds, by the header that Coterie wrote into it: a backbone, a classifier, a detector, a segmenter."""

from pathlib import Path

import safetensors

from coterie.errors import UserError
from coterie.paths import CLASSIFIER_FILE, DETECTOR_FILE, SEGMENTER_FILE, expand

HEADER, CLASSIFIER_HEADER, DETECTOR_HEADER = "coterie", "coterie_classifier", "coterie_detector"
SEGMENTER_HEADER = "coterie_segmenter"
"""Keys of the metadata of a file of weights: of a backbone, of a classifier (``classifier/classifier_file.py``), of a
detector (``detection/detector_file.py``), and of a segmenter (``segmentation/segmenter_file.py``)."""


def is_own_file(path: Path, header: str = HEADER) -> bool:
    """Whether a file is one of weights that Coterie wrote; whatever cannot be read is not.

    Args:
        path: of the file.
        header: the key of its metadata: a backbone's, or one of the others above.
    """
    try:
        with safetensors.safe_open(path, "pt") as opened:
            return header in (opened.metadata() or {})
    except (safetensors.SafetensorError, OSError):
        return False


def holds_classifier(path: str | Path) -> bool:
    """Whether a path is a folder or a file that ``coterie train`` wrote; whatever cannot be read is not.

    Args:
        path: of anything.
    """
    return _holds(path, CLASSIFIER_FILE, CLASSIFIER_HEADER)


def holds_detector(path: str | Path) -> bool:
    """Whether a path is a folder or a file that ``coterie train --boxes`` wrote; whatever cannot be read is not.

    Args:
        path: of anything.
    """
    return _holds(path, DETECTOR_FILE, DETECTOR_HEADER)


def holds_segmenter(path: str | Path) -> bool:
    """Whether a path is a folder or a file that ``coterie train --masks`` wrote; whatever cannot be read is not.

    Args:
        path: of anything.
    """
    return _holds(path, SEGMENTER_FILE, SEGMENTER_HEADER)


def _holds(path: str | Path, name: str, header: str) -> bool:
    path = expand(path)
    return is_own_file(path / name if path.is_dir() else path, header)


def file_of(path: str | Path, name: str, option: str) -> Path:
    """The file of a detector or a segmenter.

    Args:
        path: its folder, or the file itself.
        name: of the file in the folder, such as ``detector.safetensors``.
        option: of ``train`` that makes one, such as ``--boxes FILE``.

    Raises:
        UserError: there is none.
    """
    where = expand(path)
    file = where / name if where.is_dir() else where
    if not file.is_file():
        what = f"{path} has no {name}" if where.exists() else f"{path} does not exist"
        noun = name.partition(".")[0]
        raise UserError(f"{what}: coterie train MODEL IMAGES {option} --out {noun.upper()} makes a {noun}")
    return file


def refuse_classifier(path: str | Path) -> None:
    """Refuse a classifier, a detector or a segmenter where a model is needed.

    Args:
        path: what was given as a MODEL.

    Raises:
        UserError: it is one of them.
    """
    for noun, holds, tested in (
        ("detector", holds_detector, "IMAGES --boxes FILE"),
        ("segmenter", holds_segmenter, "IMAGES --masks DIR"),
        ("classifier", holds_classifier, "LABELED"),
    ):
        if holds(path):
            raise UserError(
                f"{path} is a {noun}, not a MODEL: use coterie predict {path} IMAGES, coterie evaluate {path} {tested}, or "
                "name the MODEL that it was trained from"
            )
