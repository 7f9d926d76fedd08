"""What a file of tensors holds, by the header that Coterie wrote into it: a backbone, a classifier or a detector."""

from pathlib import Path

import safetensors

from coterie.errors import UserError
from coterie.paths import CLASSIFIER_FILE, DETECTOR_FILE, expand

HEADER, CLASSIFIER_HEADER, DETECTOR_HEADER = "coterie", "coterie_classifier", "coterie_detector"
"""Keys of the metadata of a file of weights: of a backbone, of a classifier (``classifier/classifier_file.py``), and of a
detector (``detection/detector_file.py``)."""


def is_own_file(path: Path, header: str = HEADER) -> bool:
    """Whether a file is one of weights that Coterie wrote; whatever cannot be read is not.

    Args:
        path: of the file.
        header: the key of its metadata: a backbone's, :data:`CLASSIFIER_HEADER`, or :data:`DETECTOR_HEADER`.
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
    path = expand(path)
    return is_own_file(path / CLASSIFIER_FILE if path.is_dir() else path, CLASSIFIER_HEADER)


def holds_detector(path: str | Path) -> bool:
    """Whether a path is a folder or a file that ``coterie train --boxes`` wrote; whatever cannot be read is not.

    Args:
        path: of anything.
    """
    path = expand(path)
    return is_own_file(path / DETECTOR_FILE if path.is_dir() else path, DETECTOR_HEADER)


def refuse_classifier(path: str | Path) -> None:
    """Refuse a classifier or a detector where a model is needed.

    Args:
        path: what was given as a MODEL.

    Raises:
        UserError: it is one of them.
    """
    if holds_detector(path):
        raise UserError(
            f"{path} is a detector, not a MODEL: use coterie predict {path} IMAGES, coterie evaluate {path} IMAGES --boxes "
            "FILE, or name the MODEL that it was trained from"
        )
    if holds_classifier(path):
        raise UserError(
            f"{path} is a classifier, not a MODEL: use coterie predict {path} IMAGES, coterie evaluate {path} LABELLED, or "
            "name the MODEL that it was trained from"
        )
