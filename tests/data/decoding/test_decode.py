import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from coterie.data.decoding.decode import _FORMATS, count_channels, decode
from coterie.data.decoding.pixels import PIXEL_LIMIT, apply_orientation
from coterie.data.sources.file_names import DICOM_SUFFIXES, HEIF_SUFFIXES, IMAGE_SUFFIXES
from coterie.errors import BadImage
from tests.data.pictures import deep_photo, tiff

KINDS = ["JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP", "PPM", "JPEG2000", "AVIF"]


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_what_pillow_gives(kind, photo, encoded):
    data = encoded(photo(1), kind)
    pixels = decode(data)
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGB")))
    assert pixels.dtype == np.uint8
    assert pixels.shape == (24, 32, 3)
    assert np.abs(pixels.astype(int) - photo(1)).mean() < 8  # it is this photo


def test_known_suffixes_belong_to_supported_formats():
    extensions = Image.registered_extensions()
    others = {".jpf": "JPEG2000", ".jpx": "JPEG2000", **dict.fromkeys((*HEIF_SUFFIXES, *DICOM_SUFFIXES), "PNG")}
    kinds = {extensions.get(suffix, others.get(suffix)) for suffix in IMAGE_SUFFIXES if suffix not in others}
    assert kinds <= {*_FORMATS, "MPO"}  # as which Pillow opens some JPEG files
    assert set(KINDS) <= set(_FORMATS)


def test_several_pictures_in_one_file_give_the_first(photo, encoded):
    more = {"save_all": True, "append_images": [Image.fromarray(photo(2))]}
    for kind, same in (("MPO", "JPEG"), ("PNG", "PNG")):
        np.testing.assert_array_equal(decode(encoded(photo(1), kind, **more)), decode(encoded(photo(1), same)))


def test_the_result_is_not_shared_with_the_input(photo, encoded):
    for data in (encoded(photo()), photo(), encoded(photo(), "TIFF"), tiff(photo().astype(np.uint16))):
        pixels = decode(data)
        assert pixels.flags.writeable
        assert pixels.flags.c_contiguous
    array = photo()
    decode(array)[:] = 0
    assert array.any()


def test_empty_files_are_refused():
    with pytest.raises(BadImage, match="empty"):
        decode(b"")
    with pytest.raises(BadImage, match="empty"):
        count_channels(b"")


@pytest.mark.parametrize("data", [b"no image", b"\xff\xd8\xff", b"%!PS-Adobe-3.0 EPSF-3.0\n", bytes(2000), b"II*\0"])
def test_files_that_are_not_images_are_refused(data):
    with pytest.raises(BadImage):
        decode(data)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_files_are_refused(kind, share, photo, encoded, capfd):
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    data = encoded(noise, kind)
    with pytest.raises(BadImage) as found:
        decode(data[: int(share * len(data))])
    assert len(str(found.value).splitlines()) == 1
    assert capfd.readouterr() == ("", "")


def test_damaged_files_always_have_the_same_outcome(photo, encoded, capfd):
    files = [encoded(photo(), kind) for kind in KINDS if kind != "TIFF"]
    deep = deep_photo()
    files += [tiff(deep), tiff(photo()), tiff(np.stack([deep[..., 0]] * 5), planarconfig="separate")]
    generator = np.random.default_rng(0)

    def outcome(data: bytes) -> bytes | str:
        try:
            return decode(data).tobytes()
        except BadImage as error:
            return str(error)

    for data in files:
        for _ in range(25):
            broken = bytearray(data)
            for place in generator.integers(0, min(len(data), 400), 3):
                broken[place] = generator.integers(0, 256)
            first = outcome(bytes(broken))
            assert first == outcome(bytes(broken))
            assert not isinstance(first, str) or (len(first.splitlines()) == 1 and "object at" not in first)
    assert capfd.readouterr().out == ""


def test_decompression_bombs_are_refused_by_their_header():
    for width, height in ((100_000, 100_000), (12_000, 12_000), (20_000, 20_000)):
        with pytest.raises(BadImage, match=f"more than the limit of {PIXEL_LIMIT} pixels"):
            decode(png_header(width, height))
    with pytest.raises(BadImage, match="truncated"):  # within the limit, although Pillow would warn
        decode(png_header(10_000, 10_000))


def test_cmyk(photo, encoded):
    image = Image.fromarray(photo()).convert("CMYK")
    for kind in ("JPEG", "TIFF"):
        data = encoded(image, kind)
        with Image.open(io.BytesIO(data)) as stored:
            assert stored.mode == "CMYK"
            np.testing.assert_array_equal(decode(data), np.asarray(stored.convert("RGB")))
        assert count_channels(data) == 3
        assert decode(data, 4).shape == (24, 32, 4)


def test_palettes_with_and_without_transparency(photo, encoded):
    image = Image.fromarray(photo()).quantize(16)
    colors = np.asarray(image.convert("RGB"))
    for options in ({}, {"transparency": 3}, {"transparency": bytes(range(16))}):
        data = encoded(image, "PNG", **options)
        np.testing.assert_array_equal(decode(data), colors)
        assert count_channels(data) == 3
    np.testing.assert_array_equal(decode(encoded(image, "TIFF")), colors)


def test_alpha_is_dropped(photo, encoded):
    rgba = np.dstack([photo(), np.arange(24 * 32).reshape(24, 32) % 256]).astype(np.uint8)
    for data in (encoded(rgba), encoded(rgba, "TIFF"), encoded(rgba, "WEBP", lossless=True, exact=True)):
        np.testing.assert_array_equal(decode(data), rgba[..., :3])
        np.testing.assert_array_equal(decode(data, 4), rgba)
        assert count_channels(data) == 3
    gray = encoded(Image.fromarray(rgba).convert("LA"))
    assert count_channels(gray) == 1
    np.testing.assert_array_equal(decode(gray), decode(gray, 1).repeat(3, axis=2))
    deep_rgba = rgba.astype(np.uint16) * 257
    np.testing.assert_array_equal(decode(tiff(deep_rgba)), deep_rgba[..., :3])


def test_gray_and_color(photo, encoded):
    gray = np.asarray(Image.fromarray(photo()).convert("L"))
    for kind in ("PNG", "TIFF", "BMP"):
        data = encoded(gray, kind)
        np.testing.assert_array_equal(decode(data, 1)[..., 0], gray)
        np.testing.assert_array_equal(decode(data, 3), np.dstack([gray] * 3))
        assert count_channels(data) == 1
        assert count_channels(encoded(photo(), kind)) == 3
    np.testing.assert_array_equal(decode(encoded(photo()), 1)[..., 0], gray)
    np.testing.assert_array_equal(decode(photo(), 1)[..., 0], gray)  # our luma equals Pillow's


def test_black_and_white(encoded):
    bits = np.eye(9, dtype=bool)
    for kind in ("PNG", "TIFF", "BMP"):
        np.testing.assert_array_equal(decode(encoded(bits, kind), 1)[..., 0], bits * 255)


def test_the_first_frame_of_an_animation(photo, encoded):
    frames = [Image.fromarray(photo(seed)).quantize(64) for seed in range(3)]
    expected = np.asarray(frames[0].convert("RGB"))
    gif = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=40, loop=0)
    np.testing.assert_array_equal(decode(gif), expected)
    for kind, options in (("WEBP", {"lossless": True}), ("TIFF", {}), ("PNG", {})):
        rest = [frame.convert("RGB") for frame in frames[1:]]
        data = encoded(frames[0].convert("RGB"), kind, save_all=True, append_images=rest, **options)
        np.testing.assert_array_equal(decode(data), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_one_pixel(kind, encoded):
    data = encoded(np.full((1, 1, 3), 200, np.uint8), kind)
    assert decode(data).shape == (1, 1, 3)
    assert np.abs(decode(data).astype(int) - 200).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation, photo, encoded):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        data = encoded(photo(), kind, exif=exif)
        with Image.open(io.BytesIO(data)) as image:
            expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        np.testing.assert_array_equal(decode(data), expected)
    deep = deep_photo()
    stored = tiff(deep, extratags=[(274, 3, 1, orientation, True)])  # 16 bits are decoded elsewhere
    np.testing.assert_array_equal(decode(stored), apply_orientation(deep, orientation))
    assert decode(stored).shape[:2] == ((32, 24) if orientation > 4 else (24, 32))


def test_jpeg_files_are_downscaled_as_far_as_allowed(photo, encoded):
    exif = Image.Exif()
    exif[0x0112] = 6
    calls = []

    def downscale(height: int, width: int) -> int:
        calls.append((height, width))
        return 4

    small = decode(encoded(photo(0, 88, 60), "JPEG", exif=exif, quality=95), 3, downscale)
    assert calls == [(60, 88)]  # of the upright image
    assert small.shape == (15, 22, 3)
    assert small.flags.writeable
    expected = np.asarray(
        Image.fromarray(photo(0, 88, 60)).rotate(-90, expand=True).resize((22, 15), Image.Resampling.BOX)
    )
    assert np.abs(small.astype(int) - expected).mean() < 3
    assert decode(encoded(photo(0, 90, 61), "JPEG"), 1, downscale).shape == (23, 16, 1)
    assert decode(encoded(Image.fromarray(photo()).convert("CMYK"), "JPEG"), 3, downscale).shape == (6, 8, 3)
    album = encoded(photo(0, 60, 80), "MPO", save_all=True, append_images=[Image.fromarray(photo(1))])
    assert decode(album, 3, downscale).shape == (15, 20, 3)
    assert decode(encoded(photo(0, 7, 90), "JPEG"), 3, downscale).shape == (7, 90, 3)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "JPEG"])
def test_other_formats_are_not_downscaled(kind, photo, encoded):
    data = encoded(photo(), kind)
    np.testing.assert_array_equal(decode(data, 3, lambda height, width: 2), decode(data))
    np.testing.assert_array_equal(decode(photo(), 3, lambda height, width: 2), photo())


def test_a_broken_exif_block_does_not_matter(photo, encoded):
    for block in (b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff"):
        np.testing.assert_array_equal(decode(encoded(photo(), "JPEG", exif=block)), decode(encoded(photo(), "JPEG")))


def test_16_bit_gray(encoded):
    gray = deep_photo()[..., 0]
    pgm = b"P5 32 24 65535\n" + gray.astype(">u2").tobytes()
    big_endian = tiff(gray, byteorder=">")
    for data in (encoded(gray), encoded(gray, "TIFF"), tiff(gray), tiff(gray, compression="zlib"), big_endian, pgm):
        assert count_channels(data) == 1
        one, three = decode(data, 1), decode(data)
        assert one.dtype == three.dtype == np.dtype("uint16")
        np.testing.assert_array_equal(one[..., 0], gray)
        np.testing.assert_array_equal(three, np.dstack([gray] * 3))
    inverted = decode(tiff(gray, photometric="miniswhite"), 1)[..., 0]
    np.testing.assert_array_equal(inverted, 65535 - gray)


def test_floating_point_pfm_is_refused(encoded):
    with pytest.raises(BadImage, match="range is not known"):
        decode(b"Pf\n2 2\n-1.0\n" + np.ones(4, np.float32).tobytes())


def test_wrong_number_of_channels(photo, encoded):
    with pytest.raises(BadImage, match="3 channels where 4 are needed"):
        decode(encoded(photo()), 4)
    with pytest.raises(BadImage, match="1 channel where 2 are needed"):
        decode(encoded(photo()[..., 0]), 2)


def test_arrays(photo):
    np.testing.assert_array_equal(decode(photo()), photo())
    np.testing.assert_array_equal(decode(photo()[..., 0]), np.dstack([photo()[..., 0]] * 3))
    assert decode(np.ones((3, 4, 7), np.uint16), 7).dtype == np.uint16
    assert count_channels(np.ones((3, 4, 7), np.uint16)) == 7
    for wrong in (np.ones((3, 3)), np.ones((0, 3, 3), np.uint8), np.ones(3, np.uint8), np.ones((2, 2, 2, 2), np.uint8)):
        with pytest.raises(BadImage, match="uint8 or uint16"):
            decode(wrong)
    with pytest.raises(BadImage, match="5 channels where 3"):
        decode(np.ones((3, 4, 5), np.uint8))
