"""Whether DICOM files of a source hold more frames than the first, which is the one that is read."""

import os
from collections.abc import Sequence

from coterie.data.decoding.dicom import count_frames
from coterie.data.sources.file_names import DICOM_SUFFIXES, FileNames, printable
from coterie.data.sources.sampled_names import sampled_names

_SUFFIXES = tuple(each.encode() for each in DICOM_SUFFIXES)


def frames_remark(where: str, root: bytes, names: FileNames | Sequence[bytes]) -> tuple[str, ...]:
    """A line if some of a sample of DICOM files hold several frames.

    Args:
        where: the source, for the message.
        root: the folder of its files.
        names: their names below it.
    """
    for name in sampled_names(names, _SUFFIXES):
        frames = count_frames(os.path.join(root, name))  # noqa: PTH118 -- bytes
        if frames > 1:
            return (
                f"{where}: of DICOM files of several frames ({printable(name)} has {frames:,}), the first frame is read",
            )
    return ()
