"""The folder that a machine with a GPU and no network is given: data, and wheels of the packages that it lacks.

    python benchmarks/gpu/prepare.py [--out .carry] [--without-wheels]

``data/cifar10`` (19 MB) and ``data/photos`` (26 MB) are copied from ``$COTERIE_SHARED``; ``wheels`` are fetched by pip for
``--python`` on Linux, each without what it needs; Coterie's own is there for its version number only. It says no if the folder
and the project's own files, which travel together, are more than ``--most`` MiB. ``run.py --carried .carry`` reads it.
``toy_data`` makes data of the same layout out of the photographs that are installed with scikit-image.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from alternating import SHARED

ROOT = Path(__file__).parents[2]
LACKING = (
    "beartype", "cattrs", "cyclopts", "docstring-parser", "docutils", "lightly", "rich-rst", "simplejpeg", "stringzilla",
    "tomli-w",
)  # fmt: skip
"""What a machine with torch, torchvision, timm and the usual scientific packages does not have."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
TOY_IMAGES, TOY_SIDE, TOY_PHOTOS, TOY_PHOTO_SIDE = 256, 16, 24, 64


def prepare(out: Path, python: str, wheels: bool, packages: tuple[str, ...]) -> None:
    """Fill the folder; what is there already is left as it is."""
    for part in ("cifar10", "photos"):
        if not (out / "data" / part).exists():
            shutil.copytree(SHARED / "data" / part, out / "data" / part)
    if not wheels:
        return
    pip, where = [sys.executable, "-m", "pip", "--quiet"], str(out / "wheels")
    (out / "wheels").mkdir(parents=True, exist_ok=True)
    there = {path.name.partition("-")[0].replace("_", "-") for path in (out / "wheels").glob("*.whl")}
    missing = [name for name in packages if name not in there]
    if missing:
        fetch = ["download", "--no-deps", "--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
        platforms = [f"--platform={each}" for each in PLATFORMS]
        subprocess.run([*pip, *fetch, *platforms, f"--dest={where}", *missing], check=True)
    if "coterie" not in there:
        subprocess.run(
            [*pip, "wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={where}", str(ROOT)], check=True
        )


def project_files() -> list[Path]:
    """What travels with the folder: what git tracks, and what it neither tracks nor ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name]


def mebibytes(paths: Iterable[Path]) -> float:
    return sum(path.stat().st_size for path in paths if path.is_file()) / 2**20


def toy_data(out: Path) -> None:
    """A few tiny images in the places where the real ones lie."""
    from PIL import Image

    from coterie.cli.demo import write_patches
    from coterie.data.sources.builtin_photos import photo_patches

    for part in ("cifar10", "photos"):
        (out / "data" / part).mkdir(parents=True, exist_ok=True)
    write_patches(out / "data" / "cifar10" / "train.parquet", photo_patches("train", TOY_IMAGES, TOY_SIDE))
    write_patches(out / "data" / "cifar10" / "test.parquet", photo_patches("test", TOY_IMAGES // 4, TOY_SIDE))
    for index, pixels in enumerate(photo_patches("train", TOY_PHOTOS, TOY_PHOTO_SIDE).images):
        Image.fromarray(pixels[:, :, 0]).convert("RGB").save(out / "data" / "photos" / f"{index}.jpg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / ".carry")
    parser.add_argument("--python", default="3.12")
    parser.add_argument("--packages", type=lambda text: tuple(text.split(",")), default=LACKING, help="commas between")
    parser.add_argument("--without-wheels", action="store_true")
    parser.add_argument("--most", type=float, default=63, help="MiB that may travel, the project's own files included")
    options = parser.parse_args()
    prepare(options.out, options.python, not options.without_wheels, options.packages)
    own, size = mebibytes(project_files()), mebibytes(options.out.rglob("*"))
    sys.stdout.write(f"{options.out}: {size:.1f} MiB, and the project's files {own:.1f} MiB\n")
    if own + size > options.most:
        sys.exit(f"together more than {options.most:g} MiB")


if __name__ == "__main__":
    main()
