import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile

from coterie.data.sources import tar_index
from coterie.data.sources.arrays import Arrays
from coterie.data.sources.open import open_source
from coterie.data.sources.own_data import given_data
from coterie.data.sources.remote_parquet import RemoteTable
from coterie.data.sources.source import SAMPLED_SHARDS, random_positions
from coterie.data.statistics import measure, measure_range
from coterie.errors import NoImages
from tests.data.pictures import photo as photo_of
from tests.data.pictures import tiff
from tests.data.store import png, tar


def test_mean_and_standard_deviation_are_those_of_all_pixels():
    images = np.random.default_rng(0).integers(0, 256, (7, 20, 30, 3), dtype=np.uint8)
    images[..., 1] //= 3
    found = measure(Arrays(images))
    np.testing.assert_allclose(found.mean, images.mean(axis=(0, 1, 2)) / 255, rtol=1e-12)
    np.testing.assert_allclose(found.std, images.std(axis=(0, 1, 2)) / 255, rtol=1e-12)
    assert (found.median_size, found.channels, found.bits) == ((20, 30), 3, 8)
    assert (found.sampled, found.bad) == (7, 0)


def test_every_image_has_the_same_weight():
    small, large = np.zeros((2, 2, 3), np.uint8), np.full((1000, 1500, 3), 255, np.uint8)
    found = measure(Arrays([small, large, large[:500]]))
    np.testing.assert_allclose(found.mean, [2 / 3] * 3)
    assert found.median_size == (500, 1500)


def test_large_images_are_measured_on_a_grid():
    ramp = np.broadcast_to(np.linspace(0, 65535, 2000).astype(np.uint16)[None, :, None], (1500, 2000, 1))
    found = measure(Arrays([ramp]))
    np.testing.assert_allclose(found.mean, [0.5], atol=2e-3)
    np.testing.assert_allclose(found.std, [1 / 12**0.5], atol=2e-3)
    assert (found.bits, found.channels) == (16, 1)


def test_the_sample_is_random_and_always_the_same():
    images = [np.full((4, 4, 3), value, np.uint8) for value in range(200)]
    found = measure(Arrays(images), limit=10)
    np.testing.assert_allclose(found.mean[0], random_positions(10, 200).mean() / 255)
    assert found.sampled == 10
    assert found == measure(Arrays(images), limit=10)


@pytest.mark.parametrize("cameras", [2, 3, 4, 5, 10])
def test_alternating_cameras_have_an_equal_share_of_the_statistics(cameras):
    images = [np.full((2, 2, 3), 200 * (number % cameras == 0), np.uint8) for number in range(2000)]
    assert measure(Arrays(images)).mean[0] == pytest.approx(200 / 255 / cameras, rel=0.15)


def test_alternating_gray_and_color_images_are_color():
    images = [np.zeros((2, 2, 1 if number % 10 < 9 else 3), np.uint8) for number in range(1000)]
    assert measure(Arrays(images)).channels == 3


def test_a_single_color_has_a_standard_deviation_above_zero():
    assert measure(Arrays([np.zeros((4, 4, 3), np.uint8)])).std == (1 / 255,) * 3
    assert measure(Arrays([np.zeros((4, 4), np.uint16)])).std == (1 / 65535,)


def test_the_number_of_channels_is_detected(photo, encoded, tmp_path):
    color, gray = photo(), photo()[..., 0]
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((5, 8, 9), np.uint16), planarconfig="separate")
    for name, data in (("a", encoded(gray)), ("b", encoded(color)), ("c", file.getvalue())):
        (tmp_path / f"{name}.png").write_bytes(data)
    (tmp_path / "d.png").write_bytes(b"")
    path = str(tmp_path)
    assert measure(open_source(f"{path}/a.png")).channels == 1
    assert measure(open_source(f"{path}/b.png")).channels == 3
    assert measure(open_source(f"{path}/[ab].png")).channels == 3
    many = measure(open_source(f"{path}/c.png", f"{path}/d.png"))
    assert (many.channels, len(many.mean), many.bits, many.sampled, many.bad) == (5, 5, 16, 1, 1)
    assert measure(open_source(f"{path}/[ab].png"), channels=1).channels == 1
    with pytest.raises(NoImages, match="3 channels where 5 are needed"):
        measure(open_source(f"{path}/b.png"), channels=5)


def test_images_of_8_and_16_bits_are_on_one_scale(photo):
    eight = measure(Arrays([photo(1)]))
    sixteen = measure(Arrays([photo(1).astype(np.uint16) * 257]))
    np.testing.assert_allclose(eight.mean, sixteen.mean)
    np.testing.assert_allclose(eight.std, sixteen.std)
    assert measure(Arrays([photo(1), photo(1).astype(np.uint16) * 257])).bits == 16


@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "uint32", "float16", "float32", "float64"])
def test_the_range_is_that_of_all_values_but_marks_of_missing_data(kind):
    generator = np.random.default_rng(0)
    images = [generator.normal(60, 12, (64, 64, 3)).astype(kind) for _ in range(6)]
    expected = np.percentile(np.stack(images).astype(np.float64), (0.5, 99.5))
    if kind == "float32":
        images[0][:8], images[1][:8], images[2][:8] = np.nan, -3.4e38, np.inf
    source = given_data([*(tiff(image) for image in images), tiff(photo_of())]).open()
    found, count = measure_range(source)
    assert count == 6
    np.testing.assert_allclose(found, expected, atol=0.5 if kind == "float32" else 0.01)
    assert measure(source, value_range=found).bad == 0


def test_a_range_is_measured_only_where_there_is_none(tmp_path):
    flat = tiff(np.full((8, 8), 7, np.float32))
    for images, message in (
        ([tiff(photo_of())], r"none of 1 images has floating-point, signed or 32-bit values: leave it out$"),
        ([b"x", tiff(photo_of())], r"leave it out; the first that cannot be decoded: 00000000: not an image"),
        ([flat, flat], r"^views\.range=auto: all values of 2 images are 7$"),
    ):
        with pytest.raises(NoImages, match=message):
            measure_range(given_data(images).open())


def test_only_bad_images_are_refused(tmp_path):
    for name, data in (("a.jpg", b""), ("b.png", b"text")):
        (tmp_path / name).write_bytes(data)
    with pytest.raises(NoImages, match=r"^no image can be decoded \(tried 2\); the first: a.jpg: an empty"):
        measure(open_source(str(tmp_path)))


def test_bad_images_are_counted(photo, encoded, tmp_path):
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(encoded(photo())[: 60 if number % 3 == 0 else None])
    found = measure(open_source(str(tmp_path)))
    assert (found.sampled, found.bad) == (4, 2)
    np.testing.assert_allclose(found.mean, photo().mean(axis=(0, 1)) / 255)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    pytest.importorskip("fsspec", reason="fsspec is not installed: pip install 'coterie[remote]'")
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "copies"


def copies(cache: Path) -> list[Path]:
    return [path for path in cache.glob("*") if path.is_file()]


def tables(folder: Path, count: int, rows: int = 30) -> str:
    """The address of tables in a store, with row groups of 15 images each."""
    for number in range(count):
        file = io.BytesIO()
        pq.write_table(pa.table({"image": [png(rows * number + row) for row in range(rows)]}), file, row_group_size=15)
        (folder / f"{number:03d}.parquet").write_bytes(file.getvalue())
    return f"file://{folder}/*.parquet"


def test_measuring_remote_tables_reads_one_row_group_of_some(tmp_path, cache, monkeypatch):
    read = []

    def group(self: RemoteTable, number: int) -> pa.Array:
        read.append((self.name(0), number))
        return read_group(self, number)

    read_group = RemoteTable._read_group
    monkeypatch.setattr(RemoteTable, "_read_group", group)
    source = open_source(tables(tmp_path, 20))
    found = measure(source)
    assert len(read) == len(set(read)) == SAMPLED_SHARDS
    assert {number for _, number in read} == {0, 1}
    assert copies(cache) == []
    assert (found.sampled, found.bad, found.channels, found.median_size) == (160, 0, 3, (16, 16))
    np.testing.assert_allclose(found.mean, [0.5] * 3, atol=0.01)
    assert measure(source) == found


def test_measuring_remote_shards_copies_none(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(tar_index, "MIN_SAVED_IMAGES", 1)
    for number in range(20):
        (tmp_path / f"{number:02d}.tar").write_bytes(tar(30 * number, 30))
    open_source(f"file://{tmp_path}/*.tar")
    assert len(copies(cache)) == 20  # for their indices
    for copy in copies(cache):
        copy.unlink()
    found = measure(open_source(f"file://{tmp_path}/*.tar"))
    assert found.sampled == 160
    assert copies(cache) == []


def test_few_images_are_measured_alike_in_a_store_and_on_a_disk(tmp_path, cache):
    spec = tables(tmp_path, 4)
    assert measure(open_source(spec)) == measure(open_source(spec.removeprefix("file://")))
