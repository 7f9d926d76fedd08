"""PNG files of 16 bits per color keep them."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from coterie.data.decoding.decode import count_channels, decode
from coterie.data.decoding.png import is_deep_png
from coterie.errors import BadImage
from tests.data.pictures import deep_photo, deep_png, encoded, photo


def deep(samples: int, height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(samples).integers(0, 65536, (height, width, samples), dtype=np.uint16)


@pytest.mark.parametrize("passes", [False, True])
@pytest.mark.parametrize("samples", [2, 3, 4])
def test_all_bits_are_kept(samples, passes):
    for height, width in ((1, 1), (3, 2), (24, 32)):
        stored = deep(samples, height, width)
        data = deep_png(stored, passes)
        assert is_deep_png(data)
        color = stored[..., :1].repeat(3, axis=2) if samples == 2 else stored[..., :3]
        np.testing.assert_array_equal(decode(data), color)
        assert decode(data).dtype == np.uint16
        assert count_channels(data) == (1 if samples == 2 else 3)
        with Image.open(io.BytesIO(data)) as image:
            np.testing.assert_array_equal(np.asarray(image.convert("RGB")), decode(data) >> 8)
        if samples == 4:
            np.testing.assert_array_equal(decode(data, 4), stored)


def test_every_filter_of_rows():
    imagecodecs = pytest.importorskip("imagecodecs")
    for kind in ("SUB", "UP", "AVG", "PAETH"):
        data = imagecodecs.png_encode(deep_photo(), level=5, filter=getattr(imagecodecs.PNG.FILTER, kind))
        np.testing.assert_array_equal(decode(data), deep_photo())


def test_other_files_are_left_to_pillow():
    for each in (photo(), photo()[..., 0], deep_photo()[..., 0], np.dstack([photo(), photo()[..., :1]])):
        assert not is_deep_png(encoded(each))


@pytest.mark.parametrize(("place", "value"), [(26, 1), (27, 1), (28, 2), (28, 8)])
def test_unknown_methods_are_refused_and_nothing_is_printed(place, value, capfd):
    data = bytearray(deep_png(deep(3)))
    data[place] = value
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with pytest.raises(BadImage, match=r"unknown method in its header|not an image"):
        decode(bytes(data))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("passes", [False, True])
def test_damage_is_refused_and_nothing_is_printed(passes, capfd):
    data = deep_png(deep(3), passes)
    for length in range(1, len(data) - 12, 97):
        with pytest.raises(BadImage, match=r"truncated|not an image"):
            decode(data[:length])
    flipped = bytearray(data)
    flipped[200] ^= 1
    with pytest.raises(BadImage, match="wrong checksum of IDAT"):
        decode(bytes(flipped))
    assert capfd.readouterr() == ("", "")
