"""What opening a folder of many small files takes, against ``os.scandir`` and one ``stat`` for each file.

    python benchmarks/opening.py [--files 50000] [--classes 10] [--repeats 11] [--out benchmarks/results/opening.json]

Opening is all that ``pretrain`` needs of the folder: its images in order, their names and classes, and their sizes for the
fingerprint, by which a resumed run recognizes them. The contestants take turns on the same files, whose folders are cached by
the system. The bare walk keeps nothing, sorts nothing, and knows neither images nor classes.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from alternating import RESULTS, alternate, circumstances, limit_threads, ratio, show_rows, write_report

limit_threads()


def make_files(root: Path, files: int, classes: int) -> None:
    """Files of up to 300 bytes in class folders, made in an order that is not that of their names."""
    each = files // classes
    for number in range(classes):
        folder = root / f"class_{number:03d}"
        folder.mkdir()
        for place in range(each):
            (folder / f"image_{place * 7919 % each:05d}.jpg").write_bytes(b"x" * (place % 300))


def bare_walk(root: str) -> tuple[int, int]:
    """The number of files and their bytes, by ``os.scandir`` and one ``stat`` each."""
    count, total, waiting = 0, 0, [root]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir():
                    waiting.append(entry.path)
                else:
                    count, total = count + 1, total + entry.stat().st_size
    return count, total


def opened(root: str) -> tuple[Any, Any]:
    """Source and fingerprint of the same files, by Coterie."""
    from coterie.data.sources.fingerprint import Fingerprint
    from coterie.data.sources.open import open_source

    source = open_source(root)
    return source, Fingerprint.of(source)


def measure(root: str, repeats: int) -> dict[str, Any]:
    """The times of both, and how many times as long opening takes."""
    source, fingerprint = opened(root)
    assert bare_walk(root) == (len(source), sum(fingerprint.files["size"].to_pylist()))
    times, _ = alternate({"bare walk": lambda: bare_walk(root), "opening": lambda: opened(root)}, repeats)
    rows = {name: each.rounded() for name, each in times.items()}
    for clock, suffix in (("wall", ""), ("cpu", "_cpu")):
        rows["opening"][f"times_as_long{suffix}"] = ratio(times, "bare walk", "opening", clock)
    return rows


def main() -> None:
    """Make the files, measure, write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--out", type=Path, default=RESULTS / "opening.json")
    options, load = parser.parse_args(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as root:
        make_files(Path(root), options.files, options.classes)
        rows = measure(root, options.repeats)
    show_rows(rows)
    write_report(options.out, {**circumstances(options, ["numpy", "pyarrow"], load), "rows": rows})


if __name__ == "__main__":
    main()
