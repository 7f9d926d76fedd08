"""Files of NumPy as sources: by their names, mapped into memory, never unpickled."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coterie.data.sources.columns import Columns
from coterie.data.sources.fingerprint import Fingerprint
from coterie.data.sources.open import open_source
from coterie.data.sources.source import label_matrix, labels
from coterie.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 6, 5, 3), np.uint8)


def test_a_npy_is_mapped_and_opened_again_elsewhere(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", PIXELS)
    source = open_source(tmp_path / "a.npy")
    assert isinstance(source._images, np.memmap)  # type: ignore[attr-defined]
    assert len(source) == 7
    assert np.array_equal(source[3], PIXELS[3])
    assert source.name(3) == "a.npy/00000003"
    assert source.classes == ()
    again = pickle.dumps(source)
    assert len(again) < 1000
    assert np.array_equal(pickle.loads(again)[3], PIXELS[3])
    (file,) = Fingerprint.of(source).files.to_pylist()
    assert (file["name"], file["size"]) == (b"a.npy", (tmp_path / "a.npy").stat().st_size)


@pytest.mark.parametrize("names", [("images", "labels"), ("x", "y"), ("arr_0", "target"), ("Image", "Class")])
def test_a_npz_is_read_by_common_names(tmp_path: Path, names: tuple[str, str]) -> None:
    np.savez(tmp_path / "a.npz", **{names[0]: PIXELS[..., 0], names[1]: np.arange(7) % 2, "other": np.zeros(3)})
    source = open_source(tmp_path / "a.npz")
    assert source[2].shape == (6, 5)
    assert labels(source).tolist() == [0, 1, 0, 1, 0, 1, 0]


def test_arrays_are_named_by_columns(tmp_path: Path) -> None:
    arrays = {"train_images": PIXELS, "train_labels": np.arange(7)[:, None] % 2, "test_images": PIXELS[:2]}
    np.savez_compressed(tmp_path / "medmnist.npz", **arrays)
    with pytest.raises(UserError, match="--image-column; the arrays are: train_images, train_labels, test_images"):
        open_source(tmp_path / "medmnist.npz")
    with pytest.raises(UserError, match="no column 'val_images'"):
        open_source(tmp_path / "medmnist.npz", columns=Columns(image="val_images"))
    source = open_source(tmp_path / "medmnist.npz", columns=Columns(image="train_images", label="train_labels"))
    assert labels(source).tolist() == [0, 1, 0, 1, 0, 1, 0]


def test_names_and_one_column_per_class(tmp_path: Path) -> None:
    np.savez(tmp_path / "names.npz", images=PIXELS, labels=np.array(["b", "a"])[np.arange(7) % 2])
    assert open_source(tmp_path / "names.npz").classes == ("a", "b")
    rows = np.random.default_rng(1).integers(0, 2, (7, 4))
    np.savez(tmp_path / "rows.npz", images=PIXELS, labels=rows)
    assert np.array_equal(label_matrix(open_source(tmp_path / "rows.npz")).rows, rows.astype(bool))


def test_several_files_of_a_pattern(tmp_path: Path) -> None:
    for number in range(2):
        np.save(tmp_path / f"{number}.npy", PIXELS[: 3 + number])
    assert len(open_source(tmp_path / "*.npy")) == 7


WRONG: dict[str, tuple[Any, str]] = {
    "objects": (np.array([{"a": 1}, None]), "holds Python objects, which are never unpickled"),
    "floats": (PIXELS / 255, r"is an array float64\[7, 6, 5, 3\]: give uint8 pixels"),
    "channels first": (PIXELS.transpose(0, 3, 1, 2), r"x.transpose\(0, 2, 3, 1\)"),
    "one image": (PIXELS[0], "that is one image"),
    "labels": (np.arange(7), "labels go into pairs"),
    "empty": (PIXELS[:0], "without images"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_other_arrays_are_refused_in_one_line(name: str, kind: str, tmp_path: Path) -> None:
    array, message = WRONG[name]
    path = tmp_path / f"a.{kind}"
    if kind == "npy":
        np.save(path, array, allow_pickle=True)
    else:
        np.savez(path, images=array, labels=np.arange(7))
    with pytest.raises(UserError, match=message) as raised:
        open_source(path)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY\x01\x00", b"PK\x03\x04 no archive"])
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_damaged_files_are_refused_in_one_line(content: bytes, kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged, or no file of NumPy") as raised:
        open_source(path)
    assert "\n" not in str(raised.value)


def test_files_of_another_ending_and_truncated_ones(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", PIXELS)
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npy").read_bytes())
    (tmp_path / "b.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-10])
    np.savez(tmp_path / "c.npz", images=PIXELS)
    (tmp_path / "c.npy").write_bytes((tmp_path / "c.npz").read_bytes())
    for name in ("a.npz", "b.npy", "c.npy"):
        with pytest.raises(UserError, match="damaged, or no file of NumPy"):
            open_source(tmp_path / name)


def test_labels_must_be_as_many_as_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=np.arange(5))
    with pytest.raises(UserError, match=r"'labels' is an array int64\[5\]: give one label for each of 7 images"):
        open_source(tmp_path / "a.npz")
