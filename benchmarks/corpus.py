"""Every image file below a folder: decoded, or refused and why; the largest difference from second opinions; seconds.

    python benchmarks/corpus.py FOLDER [FOLDER ...] [--every 1] [--out benchmarks/results/corpus.json]

A file is taken for an image by its name or by its first bytes. Each is decoded to RGB as a run does it. The second opinions are
Pillow's conversion to RGB, upright and without alpha (L*a*b* by its color management), and for TIFF files tifffile's samples
where they are gray, RGB, CMYK, a palette or L*a*b* of 8 bits. Differences are in units of 255, whatever the depth. Goal: none
above 3 from every opinion, and no exception other than a refusal. Where the opinions themselves are further apart, the file is
listed with both.
"""

import argparse
import io
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from alternating import RESULTS, circumstances, limit_threads, write_report

limit_threads()

import numpy as np
import tifffile
from PIL import Image, ImageCms, ImageOps

from coterie.data.decoding.decode import decode
from coterie.data.sources.file_names import is_image_name
from coterie.errors import BadImage

TOLERANCE = 3
"""Of 255: what rounding and the color spaces of two libraries may differ by."""
SAMPLES = {"MINISBLACK": 1, "MINISWHITE": 1, "RGB": 3, "PALETTE": 1, "SEPARATED": 4, "CIELAB": 3}
MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"GIF8", b"\0\0\0\x0cjP  ")


def image_files(folders: list[Path], every: int) -> Iterator[Path]:
    """Every so many-th image below the folders, in order of their names."""
    found = (path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file() and is_image(path))
    for number, path in enumerate(found):
        if number % every == 0:
            yield path


def is_image(path: Path) -> bool:
    if is_image_name(os.fsencode(path.name)):
        return True
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError:
        return False
    return start.startswith(MAGIC) or (start.startswith(b"RIFF") and start.endswith(b"WEBP", 8, 12))


def by_pillow(data: bytes) -> np.ndarray | str:
    """RGB in [0, 255], or why Pillow has no opinion."""
    with Image.open(io.BytesIO(data)) as opened:
        image: Image.Image = ImageOps.exif_transpose(opened)
    if image.mode == "LAB":
        return by_color_management(image)
    if image.mode in ("I", "F"):
        return "values of no known range"
    if image.mode.startswith("I;16"):
        return np.repeat(np.asarray(image, np.float64)[..., None] / 257, 3, axis=2)
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    return np.asarray(image.convert("RGB"), np.float64)


def by_color_management(image: Image.Image) -> np.ndarray:
    profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    exact = ImageCms.Flags.NOOPTIMIZE  # with the usual tables, colors outside of sRGB are off by up to 21 of 255
    transform = ImageCms.buildTransform(*profiles, "LAB", "RGB", flags=exact)
    return np.asarray(ImageCms.applyTransform(image, transform), np.float64)


def by_tifffile(data: bytes) -> np.ndarray | str:
    """RGB in [0, 255] by the plainest reading of tifffile's samples, or why there is none."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.series[0].keyframe
        kind, count = getattr(page.photometric, "name", ""), page.samplesperpixel - len(page.extrasamples)
        if page.dtype is None or page.dtype.kind not in "bu" or page.bitspersample > 16:
            return "values of no known range"
        if SAMPLES.get(kind) != count or (kind == "CIELAB" and page.bitspersample != 8):
            return f"{kind} of {count} samples, {page.bitspersample} bits"
        if page.tags.valueof(274, 1) != 1:
            return "turned by its orientation"
        stored = page.asarray()
    stored = np.moveaxis(stored, 0, -1) if page.axes.startswith("S") else stored
    stored = stored.reshape(*stored.shape[:2], -1)
    if kind == "PALETTE":
        return page.colormap.T[stored[..., 0]] / 257
    if kind == "CIELAB":
        size = stored.shape[1], stored.shape[0]
        return by_color_management(Image.frombytes("LAB", size, stored[..., :3].tobytes(), "raw", "LAB"))
    share = stored[..., :count] / (2**page.bitspersample - 1)
    if 1 in page.extrasamples:  # premultiplied
        alpha = stored[..., count : count + 1] / (2**page.bitspersample - 1)
        share = np.minimum(share / np.where(alpha > 0, alpha, 1), 1)
    if kind == "SEPARATED":
        return (1 - share[..., :3]) * (1 - share[..., 3:]) * 255
    return np.repeat(1 - share if kind == "MINISWHITE" else share, 3 // count, axis=2) * 255


def opinion(read: Any, data: bytes) -> np.ndarray | str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read(data)
    except Exception as error:  # no opinion: the reason is kept
        return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"


def apart(one: np.ndarray, other: np.ndarray) -> float | str:
    """The largest difference, in units of 255."""
    if one.shape != other.shape:
        return f"{one.shape[1]} x {one.shape[0]} and {other.shape[1]} x {other.shape[0]} pixels"
    return round(float(np.abs(one - other).max()), 2)


def judged(data: bytes) -> dict[str, Any]:
    """What became of a file: its refusal, or its differences from the second opinions."""
    began = time.thread_time()
    try:
        pixels = decode(data)
    except BadImage as refusal:
        row: dict[str, Any] = {"outcome": "refused", "reason": str(refusal)}
        pixels = None
    except Exception as error:
        return {"outcome": "EXCEPTION", "reason": repr(error), "seconds": round(time.thread_time() - began, 4)}
    else:
        row = {"outcome": "decoded", "shape": list(pixels.shape), "depth": str(pixels.dtype)}
    row["seconds"] = round(time.thread_time() - began, 4)
    readers = {"pillow": by_pillow} | ({"tifffile": by_tifffile} if data[:4] in MAGIC[2:6] else {})
    for name, read in readers.items():
        found = opinion(read, data)
        if isinstance(found, str):
            row[name] = found
        elif pixels is None:
            row[name] = "reads it"
        else:
            row[name] = apart(pixels * (255 / np.iinfo(pixels.dtype).max), found)
    differences = [row[name] for name in readers if not isinstance(row[name], str) or " pixels" in row[name]]
    far = [isinstance(each, str) or each > TOLERANCE for each in differences]
    if any(far):
        row["outcome"] = "differs" if all(far) else "opinions differ"
    return row


def summary(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Counts, and the files that need a look."""
    outcomes = Counter(row["outcome"] for row in rows.values())
    numbers = [
        row[name] for row in rows.values() for name in ("pillow", "tifffile") if isinstance(row.get(name), float)
    ]
    agreed = [each for each in numbers if each <= TOLERANCE]
    return {
        "files": len(rows),
        "outcomes": dict(outcomes),
        "second_opinions": len(numbers),
        "equal_to_an_opinion": sum(each < 0.01 for each in numbers),
        "largest_difference_within_tolerance": max(agreed, default=0.0),
        "seconds": round(sum(row["seconds"] for row in rows.values()), 2),
        "slowest": max(((row["seconds"], name) for name, row in rows.items()), default=None),
        "refused": dict(Counter(row["reason"] for row in rows.values() if row["outcome"] == "refused").most_common()),
        "refused_though_an_opinion_reads_it": gathered(rows),
        "to_look_at": {
            name: row for name, row in rows.items() if row["outcome"] in ("differs", "opinions differ", "EXCEPTION")
        },
    }


def gathered(rows: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Why files are refused that a second opinion reads, with their number and the first of them."""
    names: dict[str, list[str]] = {}
    for name, row in rows.items():
        if row["outcome"] == "refused" and "reads it" in (row.get("pillow"), row.get("tifffile")):
            names.setdefault(row["reason"], []).append(name)
    return {reason: f"{len(found)}, the first: {found[0]}" for reason, found in names.items()}


def shown(found: dict[str, Any]) -> str:
    lines = [f"{found['files']} files in {found['seconds']} s of CPU: {found['outcomes']}"]
    lines += [
        f"{found['second_opinions']} second opinions, {found['equal_to_an_opinion']} equal; the largest difference up to "
        f"{TOLERANCE} of 255 is {found['largest_difference_within_tolerance']}"
    ]
    lines += [f"refused {count} times: {reason}" for reason, count in found["refused"].items()]
    lines += [f"{row['outcome']}: {name} {row}" for name, row in list(found["to_look_at"].items())[:40]]
    return "\n".join(lines)


def main() -> None:
    """Judge every file, write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--every", type=int, default=1, help="only every so many-th file")
    parser.add_argument("--out", type=Path, default=RESULTS / "corpus.json")
    options, load = parser.parse_args(), os.getloadavg()[0]
    Image.MAX_IMAGE_PIXELS = None
    rows = {str(path): judged(path.read_bytes()) for path in image_files(options.folders, options.every)}
    found = summary(rows)
    sys.stdout.write(shown(found) + "\n")
    options.folders = [str(folder) for folder in options.folders]
    packages = ["numpy", "pillow", "tifffile", *(["imagecodecs"] if find_spec("imagecodecs") else [])]
    write_report(options.out, {**circumstances(options, packages, load), **found})
    sys.exit(1 if {"EXCEPTION", "differs"} & set(found["outcomes"]) else 0)


if __name__ == "__main__":
    main()
