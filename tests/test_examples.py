"""Each example runs as it stands."""

import json
from pathlib import Path

from PIL import Image

from coterie.cli.demo import write_patches
from coterie.data.sources.builtin_photos import photo_patches
from tests.benchmarks.forked import start

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(folder: Path, name: str, *words: str | Path) -> str:
    out, errors = folder / "said.txt", folder / "errors.txt"
    process = start((str(EXAMPLES / name), *map(str, words)), out, {}, errors=errors)
    process.join()
    assert process.exitcode == 0, errors.read_text()
    return out.read_text()


def test_own_loop(tmp_path: Path) -> None:
    losses = [float(line.rsplit(" ", 1)[1]) for line in run(tmp_path, "own_loop.py").splitlines()]
    assert losses[-1] < losses[0]


def test_new_assignment(tmp_path: Path) -> None:
    write_patches(tmp_path / "images.parquet", photo_patches("train", 64, 16))
    lines = run(tmp_path, "new_assignment.py", tmp_path / "images.parquet", tmp_path / "run").splitlines()
    crowded, fair = (json.loads(line[line.index("[") :]) for line in lines[:2])
    assert max(crowded) > 50
    assert max(fair) < 40
    assert lines[2].startswith("pretrained: ")
    assert "assignment=__main__.Auction" in (tmp_path / "run" / "config.toml").read_text()


def test_own_photos(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, patch in enumerate(photo_patches("train", 32, 16).images):
        Image.fromarray(patch[:, :, 0]).convert("RGB").save(folder / f"{number}.png")
    said = run(tmp_path, "own_photos.py", folder, tmp_path / "run", 1)
    assert "32 embeddings" in said
    assert "resnet18: 512 features an image" in said


def test_cifar10(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_patches(tmp_path / f"{split}.parquet", photo_patches(split, 36, 16))
    assert "after 1 epochs" in run(tmp_path, "cifar10.py", tmp_path, tmp_path / "run", 1)


def test_every_example_is_run_here() -> None:
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem for path in EXAMPLES.glob("*.py")} <= tested
