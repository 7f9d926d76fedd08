"""What several tests of sources share."""

import io
import tarfile
from pathlib import Path

from coterie.data.sources.source import ImageSource


def pack(path: Path, count: int, label: str | None = None) -> str:
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            for name, data in ((f"{number:05d}.jpg", f"{path.name} {number}"), (f"{number:05d}.cls", label)):
                if data is not None:
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data.encode()))
    return str(path)


def saved(cache: Path) -> list[Path]:
    return sorted(cache.glob("index/*/*.arrow"))


def names(source: ImageSource) -> list[str]:
    return [source.name(index) for index in range(len(source))]


def write(root: Path, *paths: str, data: bytes = b"x") -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root
