"""The images whose labels may be used, by name: such as SimCLR's published lists of 1 % and 10 % of ImageNet."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coterie.data.sources.name_matching import match_names
from coterie.data.sources.source import ImageSource
from coterie.errors import UserError
from coterie.evaluation.probes.few_labels import LabeledSubset
from coterie.paths import expand


@dataclass(frozen=True)
class ListedLabels:
    """The training images that a text file lists, one name a line.

    Attributes:
        file: the file, as the user gave it.
        names: its lines: paths, ends of paths or file names.
    """

    file: str
    names: tuple[str, ...]

    def asked(self) -> dict[str, str | int]:
        """The option and its value that ask for this."""
        return {"label_list": self.file}

    def subset(self, source: ImageSource) -> LabeledSubset:
        """The listed images of a source, in its order.

        Args:
            source: labeled images.

        Raises:
            UserError: none of its images is listed, or a name means one of several images.
        """
        names = [source.name(place) for place in range(len(source))]
        found = match_names(self.names, names)
        if found.ambiguous:
            name, *two = found.ambiguous[0]
            raise UserError(
                f"{self.file}: {len(found.ambiguous):,} names mean one of several images, as {name!r} means "
                f"{' or '.join(two)}: write their paths below the folder of the images"
            )
        missing = [name for name, places in zip(self.names, found.images, strict=True) if not places]
        if len(missing) == len(self.names):
            raise UserError(
                f"{self.file}: none of its {len(missing):,} names, such as {missing[0]!r}, is one of TRAIN's"
            )
        positions = np.unique([place for places in found.images for place in places])
        remark = f"{self.file}: {len(missing):,} of {len(self.names):,} names match no labeled image of TRAIN"
        return LabeledSubset(positions, (f"{remark} (such as {missing[0]!r})",) if missing else ())


def listed_labels(file: str | Path) -> ListedLabels:
    """Read a list of names.

    Args:
        file: a text file, one name a line.

    Raises:
        UserError: it cannot be read, is not text, or is empty.
    """
    try:
        text = expand(file).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"--label-list {file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"--label-list {file}: not a text list of names; save it as UTF-8, one name a line") from None
    names = tuple(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not names:
        raise UserError(f"--label-list {file}: this list is empty; write one name a line")
    return ListedLabels(str(file), names)
