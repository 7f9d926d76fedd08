"""A few names of a kind of file, for a look at what such files hold."""

from collections.abc import Sequence

from coterie.data.sources.file_names import FileNames
from coterie.data.sources.source import random_positions

_SAMPLED, _READ = 256, 16  # names that are looked at, and files of which the header is read


def sampled_names(names: FileNames | Sequence[bytes], suffixes: tuple[bytes, ...]) -> list[bytes]:
    """A few of the names that end so, if there are any in a sample."""
    raw = names.raw if isinstance(names, FileNames) else names.__getitem__
    sampled = (raw(place) for place in random_positions(_SAMPLED, len(names)).tolist())
    return [name for name in sampled if name.lower().endswith(suffixes)][:_READ]
