import numpy as np
import pytest
from PIL import Image, ImageOps

from coterie.data.decoding.pixels import (
    BYTE_LIMIT,
    PIXEL_LIMIT,
    apply_orientation,
    check_bytes,
    check_size,
    convert_channels,
    damaged_image,
)
from coterie.errors import BadImage


def test_sizes_up_to_the_limits_are_accepted():
    check_size(2**13, 2**14)
    check_size(1, PIXEL_LIMIT, bytes_per_pixel=8)
    check_bytes(BYTE_LIMIT)
    with pytest.raises(BadImage, match=f"16385 x 8192 pixels, more than the limit of {PIXEL_LIMIT} pixels per image"):
        check_size(2**13, 2**14 + 1)
    with pytest.raises(BadImage, match=f"{9 * PIXEL_LIMIT} bytes when decoded, more than the limit of {BYTE_LIMIT}"):
        check_size(1, PIXEL_LIMIT, bytes_per_pixel=9)
    with pytest.raises(BadImage, match="bytes when decoded"):
        check_bytes(BYTE_LIMIT + 1)


@pytest.mark.parametrize("orientation", range(10))
def test_orientations_match_pillow(orientation):
    stored = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    image = Image.fromarray(stored)
    image.getexif()[0x0112] = orientation
    assert np.array_equal(apply_orientation(stored, orientation), np.asarray(ImageOps.exif_transpose(image)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_channels_are_converted(dtype):
    color = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (50, 60, 3), dtype=dtype)
    gray = convert_channels(color, 1)
    assert (gray.shape, gray.dtype) == ((50, 60, 1), dtype)
    assert np.abs(gray[..., 0] - color @ [0.299, 0.587, 0.114]).max() <= 1
    if dtype == np.uint8:
        assert np.array_equal(gray[..., 0], np.asarray(Image.fromarray(color).convert("L")))
    assert np.array_equal(convert_channels(gray, 3), gray.repeat(3, axis=2))
    assert convert_channels(color, 3) is color


@pytest.mark.parametrize(("present", "needed"), [(3, 2), (3, 4), (1, 2), (5, 1), (5, 3)])
def test_other_numbers_of_channels_are_refused(present, needed):
    with pytest.raises(BadImage, match=rf"^{present} channels? where {needed} are needed \(views.channels\)$"):
        convert_channels(np.zeros((2, 2, present), np.uint8), needed)


def test_errors_of_decoders_become_one_line_that_is_always_the_same():
    assert (
        str(damaged_image(ValueError("bad\nfile <_io.BytesIO object at 0x7f12>"))) == "truncated or damaged (bad file)"
    )
    assert str(damaged_image(KeyError())) == "truncated or damaged (KeyError)"
    assert (
        str(damaged_image(ValueError("a not supported thing")))
        == "stored in a way that is not supported (a not supported thing)"
    )
    assert str(damaged_image(OSError("image file is truncated"))) == "truncated (image file is truncated)"
    assert str(damaged_image(ValueError("LZW requires the 'imagecodecs' package"))).endswith("pip install imagecodecs")
    assert len(str(damaged_image(ValueError("x" * 1000)))) < 200
