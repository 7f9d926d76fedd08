"""Images given in Python train as their files do, bit for bit; they resume, are probed, and say what must be given again."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import coterie
from coterie.config.toml import read_toml
from coterie.data.sources.builtin_photos import photo_patches
from coterie.data.sources.open import open_source
from coterie.errors import NoImages, UserError
from coterie.training.callback_runner import CallbackError
from coterie.types import Progress, StepResult
from tests.faults.running import assert_same_runs

SETTINGS = (
    "views.crops.0.size=16 views.crops.1.size=8 views.crops.1.count=2 backbone.width=0.125 groups.counts=[8] memory=none "
    "run.threads=1 run.log_steps=2 run.save_minutes=1000 run.snapshots=1 run.device=cpu"
).split()
PHOTOS = photo_patches("train", 40, 16)
PIXELS = np.stack([np.repeat(each, 3, axis=2) if each.shape[2] == 1 else each for each in PHOTOS.images])
PIXELS[..., 1] //= 2  # colored
LABELS = [number % 3 for number in range(len(PIXELS))]


class Photos(torch.utils.data.Dataset):
    """As torchvision's: pairs of a PIL image and a number; ``broken`` raises."""

    classes = ("cat", "dog", "emu")

    def __init__(self, broken: int = -1, change: Callable[[np.ndarray], np.ndarray] = np.asarray) -> None:
        self.broken, self.change = broken, change

    def __len__(self) -> int:
        return len(PIXELS)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if index == self.broken:
            raise KeyError(f"row {index}\nis gone")
        return Image.fromarray(self.change(PIXELS[index])), LABELS[index]


class Rows:
    """As a dataset of Hugging Face: rows by whole numbers of Python, columns by name."""

    column_names = ("picture", "label")

    def __len__(self) -> int:
        return len(PIXELS)

    def __getitem__(self, index: int) -> dict[str, Any]:
        assert type(index) is int
        return {"image": {"bytes": encoded(PIXELS[index]), "path": None}, "label": LABELS[index]}


class Stop(coterie.Callback):
    """Ends the process, as it were, after the second step."""

    def on_step_end(self, progress: Progress, result: StepResult) -> None:
        if progress.step == 1:
            raise InterruptedError


def encoded(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def train(data: Any, out: Path, *settings: str, workers: int = 0, **more: Any) -> Path:
    chosen = [*SETTINGS, f"run.workers={workers}", *settings]
    return coterie.pretrain("swav", data, out=out, epochs=1, batch_size=16, settings=chosen, quiet=True, **more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos")
    for number, (pixels, label) in enumerate(zip(PIXELS, LABELS, strict=True)):
        (path / "all").mkdir(exist_ok=True)
        (path / "labeled" / Photos.classes[label]).mkdir(exist_ok=True, parents=True)
        Image.fromarray(pixels).save(path / "all" / f"{number:03d}.png")
        Image.fromarray(pixels).save(path / "labeled" / Photos.classes[label] / f"{number:03d}.png")
    return path


@pytest.fixture(scope="module")
def from_files(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(folder / "all", tmp_path_factory.mktemp("run") / "run")


def files(folder: Path) -> list[Path]:
    return sorted((folder / "all").iterdir())


def numpy_file(folder: Path) -> str:
    np.save(folder / "images.npy", PIXELS)
    return str(folder / "images.npy")


KINDS: dict[str, Callable[[Path], Any]] = {
    "one array": lambda _: PIXELS,
    "arrays": lambda _: list(PIXELS),
    "pairs of array and label": lambda _: list(zip(PIXELS, LABELS, strict=True)),
    "one tensor": lambda _: torch.tensor(PIXELS).permute(0, 3, 1, 2),
    "tensors": lambda _: list(torch.tensor(PIXELS).permute(0, 3, 1, 2)),
    "PIL images": lambda _: [Image.fromarray(each) for each in PIXELS],
    "PIL images that are not read yet": lambda folder: [Image.open(path) for path in files(folder)],
    "encoded images": lambda _: [encoded(each) for each in PIXELS],
    "pairs of path and label": lambda folder: [(str(path), 0) for path in files(folder)],
    "dictionaries": lambda _: [{"img": each, "target": 1} for each in PIXELS],
    "a dataset of torch": lambda _: Photos(),
    "a tensor dataset": lambda _: torch.utils.data.TensorDataset(torch.tensor(PIXELS).permute(0, 3, 1, 2)),
    "rows of Hugging Face": lambda _: Rows(),
    "a file of NumPy": numpy_file,
    "an image source": lambda folder: open_source(folder / "all"),
    "mixed": lambda folder: [
        *files(folder)[:10],
        *PIXELS[10:20],
        *map(Image.fromarray, PIXELS[20:30]),
        *((encoded(each), "cat") for each in PIXELS[30:]),
    ],
    "two datasets": lambda folder: [PIXELS[:25], torch.utils.data.Subset(Photos(), range(25, 40))],
}


def close(images: Any) -> None:
    """Close the files of Pillow's images, which keep them open."""
    for each in images if isinstance(images, list) else ():
        if isinstance(each, Image.Image):
            each.close()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_trains_as_its_files_do(kind: str, folder: Path, from_files: Path, tmp_path: Path) -> None:
    given = KINDS[kind](folder)
    run = train(given, tmp_path / "run")
    close(given)
    assert_same_runs(run, from_files)
    data = read_toml(run / "config.toml")["data"]
    assert all(each.startswith("python: ") or kind == "a file of NumPy" for each in data), data


def test_with_loader_processes(folder: Path, from_files: Path, tmp_path: Path) -> None:
    for name in ("a dataset of torch", "PIL images that are not read yet"):
        given = KINDS[name](folder)
        assert_same_runs(train(given, tmp_path / name[:3], workers=2), from_files)
        close(given)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA", "CMYK", "I;16"])
def test_images_of_any_mode_train_as_their_files_do(mode: str, tmp_path: Path) -> None:
    suffix = "tiff" if mode == "CMYK" else "png"
    (tmp_path / "all").mkdir()
    images = []
    for number, pixels in enumerate(PIXELS):
        image = Image.fromarray(pixels)
        if mode == "I;16":
            image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
        elif mode == "LA":
            image = image.convert("L").convert("LA")
        else:
            image = image.convert(mode)
        image.save(tmp_path / "all" / f"{number:03d}.{suffix}")
        images.append(image)
    assert images[0].mode == mode
    assert_same_runs(train(images, tmp_path / "own"), train(tmp_path / "all", tmp_path / "files"))


def test_a_stopped_run_resumes_bitwise_with_the_same_images(from_files: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(CallbackError):
        train(Photos(), run, callbacks=[Stop()])
    with pytest.raises(UserError, match=r"the images came from Python .*Photos of 40 images.*: give them there again"):
        coterie.pretrain(out=run, quiet=True)
    with pytest.raises(UserError, match=r"on other images than python: .*40 images before, 30 now"):
        coterie.pretrain(data=list(PIXELS[:30]), out=run, quiet=True)
    with pytest.raises(UserError, match=r"on other images than .*1 changed \(such as item 7\)"):
        coterie.pretrain(data=[*PIXELS[:7], 255 - PIXELS[7], *PIXELS[8:]], out=run, quiet=True)
    coterie.pretrain(data=Photos(), out=run, quiet=True)
    assert_same_runs(run, from_files)


def test_items_that_raise_or_are_damaged_are_bad_images(folder: Path, tmp_path: Path) -> None:
    run = train(Photos(broken=5), tmp_path / "torch", workers=1)
    assert (run / "bad_images.txt").read_text() == "00000005\treading this item raises KeyError: 'row 5\\nis gone'\n"
    paths: list[Any] = [*files(folder)[:20], *PIXELS[20:38], b"no image", folder / "nowhere.png"]
    lines = (train(paths, tmp_path / "list") / "bad_images.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == [str(folder / "nowhere.png"), "00000038"]
    assert all(line.count("\t") == 1 for line in lines)


def test_labels_reach_probes_and_tables(folder: Path, from_files: Path, tmp_path: Path) -> None:
    same = coterie.evaluate(from_files, folder / "labeled", folder / "labeled")
    order = [path for path in open_source(folder / "labeled")._names]  # noqa: C416
    own = [(folder / "labeled" / name.decode(), name.decode().partition("/")[0]) for name in order]
    assert coterie.evaluate(from_files, own, own) == same
    assert coterie.evaluate(from_files, Photos(), Photos())["knn"].keys() == same["knn"].keys()
    assert coterie.embed(from_files, Photos(), tmp_path / "rows.parquet") == 40
    table = pq.read_table(tmp_path / "rows.parquet")
    assert table["label"].to_pylist() == LABELS
    assert table["class"].to_pylist() == [Photos.classes[label] for label in LABELS]
    found = coterie.transfer(from_files, {"own": (Photos(), Photos()), "list": own}, probes=("knn",))
    assert found.keys() == {"own", "list"}


def test_a_probe_on_own_images(tmp_path: Path) -> None:
    run = train(PIXELS, tmp_path / "run", probe=Photos(), probe_test=torch.utils.data.Subset(Photos(), range(9)))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any("knn" in str(line) for line in lines)
    assert read_toml(run / "config.toml")["probe"]["train"] == [f"python: {__name__}.Photos of 40 images"]
    with pytest.raises(UserError, match=r"the images of the probe came from Python"):
        train(PIXELS, run, "seed=0")


def test_reports_ask_for_images_that_came_from_python(tmp_path: Path) -> None:
    run = train(Photos(), tmp_path / "run")
    with pytest.raises(UserError, match=r"were not found .*came from Python.*--images PATH"):
        coterie.report(run)
    (run / "report.html").unlink()
    assert coterie.report(run, images=Photos()).exists()


def test_plan_and_profile_rehearse_in_this_process() -> None:
    options = {"epochs": 1, "batch_size": 16, "settings": [*SETTINGS, "run.workers=0"]}
    plan = coterie.plan("swav", Photos(), quiet=True, **options)
    assert "not measured, as images or parts were given in Python" in str(plan)
    assert coterie.profile("swav", Photos(broken=3), seconds=0.5, quiet=True, **options).steps


def test_a_dataset_of_random_views_is_refused(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    random = Photos(change=lambda pixels: pixels[::-1] if draw.random() < 0.5 else pixels)
    with pytest.raises(UserError, match=r"of data differs when it is read twice: give the dataset without random"):
        train(random, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_dataset_that_always_raises_is_refused(tmp_path: Path) -> None:
    class Broken(Photos):
        def __getitem__(self, index: int) -> Any:
            raise OSError("no such archive")

    with pytest.raises(NoImages, match=r"not one of .* items of data can be read; .* OSError: no such archive"):
        train(Broken(), tmp_path / "run")
