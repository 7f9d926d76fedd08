"""simplejpeg against Pillow: the same pixels and the same errors, so that it does not matter what is installed."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from coterie.data.decoding import jpeg
from coterie.data.decoding.decode import decode
from coterie.data.decoding.jpeg import MIN_DOWNSCALED_SIDE, decode_jpeg, downscaled_size
from coterie.data.decoding.pixels import PIXEL_LIMIT
from coterie.errors import BadImage

pytest.importorskip("simplejpeg", reason="simplejpeg is not installed: scripts/install fast")

KINDS = {
    "4:4:4": {"subsampling": 0, "quality": 95},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2, "quality": 40},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 3},
    "kept as RGB": {"keep_rgb": True},
    "turned": {"exif": 6},
}
FACTORS = (1, 2, 4, 8)


def files(photo, encoded, kind: str, height: int = 75, width: int = 122) -> list[bytes]:
    """A photo and noise, in color and in gray."""
    options = dict(KINDS[kind])
    if "exif" in options:
        exif = Image.Exif()
        exif[0x0112] = options["exif"]
        options["exif"] = exif
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    colored = [encoded(pixels, "JPEG", **options) for pixels in (photo(1, height, width), noise)]
    if kind == "kept as RGB":
        return colored
    return [
        *colored,
        encoded(noise[..., 0], "JPEG", **{name: options[name] for name in options if name != "subsampling"}),
    ]


@pytest.fixture
def outcome(monkeypatch):
    """The pixels or the error of a file with simplejpeg, and without it."""

    def decoded(data: bytes, factor: int, channels: int) -> np.ndarray | str:
        try:
            return decode(data, channels, lambda height, width: factor)
        except BadImage as error:
            return str(error)

    def both(data: bytes, factor: int = 1, channels: int = 3) -> tuple[np.ndarray | str, np.ndarray | str]:
        with_it = decoded(data, factor, channels)
        with monkeypatch.context() as patch:
            patch.setattr(jpeg, "simplejpeg", None)
            return with_it, decoded(data, factor, channels)

    return both


def same(one: np.ndarray | str, other: np.ndarray | str) -> bool:
    return type(one) is type(other) and np.array_equal(one, other)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_equal_pillows_at_every_scale(kind, factor, photo, encoded, outcome):
    for data in files(photo, encoded, kind):
        with Image.open(io.BytesIO(data)) as image:
            assert decode_jpeg(data, image.mode, image.height, image.width, factor) is not None  # not by Pillow
            image.draft(None, (image.width // factor, image.height // factor))
            expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        with_it, without = outcome(data, factor)
        np.testing.assert_array_equal(with_it, expected)
        np.testing.assert_array_equal(without, expected)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("kind", KINDS)
def test_gray_is_the_luma_of_the_file(kind, factor, photo, encoded, outcome):
    for data in files(photo, encoded, kind):
        with Image.open(io.BytesIO(data)) as image:
            assert decode_jpeg(data, image.mode, image.height, image.width, factor, gray=True) is not None
            image.draft("L", (image.width // factor, image.height // factor))
            assert image.mode == "L"
            expected = np.asarray(ImageOps.exif_transpose(image))[..., None]
        with_it, without = outcome(data, factor, channels=1)
        np.testing.assert_array_equal(with_it, expected)
        np.testing.assert_array_equal(without, expected)
        converted = np.asarray(Image.fromarray(decode(data, 3, lambda *_: factor)).convert("L"))[..., None]
        assert np.abs(converted.astype(int) - expected).mean() < 3  # but for colors outside of RGB, the same


@pytest.mark.parametrize("factor", FACTORS[1:])
def test_small_images_are_downscaled_alike(factor, encoded, outcome):
    noise = np.random.default_rng(0).integers(0, 256, (36, 36, 3), dtype=np.uint8)
    for height in range(MIN_DOWNSCALED_SIDE - 1, 36):
        for width in (MIN_DOWNSCALED_SIDE, 9, 15, 33):
            with_it, without = outcome(encoded(noise[:height, :width], "JPEG"), factor)
            assert same(with_it, without)
            assert with_it.shape[:2] == (
                downscaled_size(height, width, factor) if height >= MIN_DOWNSCALED_SIDE else (height, width)
            )


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_files_have_the_same_outcome(kind, photo, encoded, outcome):
    for data in files(photo, encoded, kind, 24, 40):
        refused = 0
        for length in range(1, len(data), 7):
            with_it, without = outcome(data[:length])
            assert same(with_it, without)
            refused += isinstance(with_it, str)
        assert refused > 0.9 * len(data) / 7


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_have_the_same_outcome(kind, photo, encoded, outcome):
    generator = np.random.default_rng(0)
    kinds_of_outcome = set()
    for data in files(photo, encoded, kind, 24, 40):
        for number in range(60):
            broken = bytearray(data)
            for place in generator.integers(0, 700 if number % 2 else len(data), 2):
                broken[place % len(data)] = generator.integers(0, 256)
            with_it, without = outcome(bytes(broken), FACTORS[number % 4])
            assert same(with_it, without)
            kinds_of_outcome.add(type(with_it))
    assert kinds_of_outcome == {str, np.ndarray}


def with_size(data: bytes, height: int, width: int) -> bytes:
    """The file with another size in its header."""
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", height, width) + data[place + 4 :]


def test_decompression_bombs_are_refused_by_their_header(photo, encoded, monkeypatch):
    bomb = with_size(encoded(photo(), "JPEG"), 60_000, 60_000)
    monkeypatch.setattr(jpeg.np, "empty", lambda *shape, **options: pytest.fail("memory was allocated"))
    with pytest.raises(BadImage, match=f"more than the limit of {PIXEL_LIMIT} pixels"):
        decode(bomb, 3, lambda height, width: 8)


def test_only_the_size_of_the_checked_header_is_decoded(photo, encoded):
    large = encoded(photo(0, 200, 300), "JPEG")
    assert decode_jpeg(large, "RGB", 20, 30) is None
    assert decode_jpeg(large, "RGB", 400, 600) is None


def test_cmyk_is_left_to_pillow(photo, encoded, outcome):
    cmyk = encoded(Image.fromarray(photo()).convert("CMYK"), "JPEG")
    with_it, without = outcome(cmyk)
    assert same(with_it, without)
    assert with_it.shape == (24, 32, 3)
    assert decode_jpeg(cmyk, "CMYK", 24, 32) is None


def test_without_simplejpeg_everything_is_left_to_pillow(photo, encoded, monkeypatch):
    monkeypatch.setattr(jpeg, "simplejpeg", None)
    assert decode_jpeg(encoded(photo(), "JPEG"), "RGB", 24, 32) is None
