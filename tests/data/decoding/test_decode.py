import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from coterie.data.decoding.decode import _FORMATS, channels_of, decode
from coterie.data.decoding.pixels import PIXEL_LIMIT, upright
from coterie.data.sources.names import SUFFIXES
from coterie.errors import BadImage

KINDS = ["JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP", "PPM", "JPEG2000", "AVIF"]


def tiff(array, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.fixture(scope="module")
def deep(photo) -> np.ndarray:
    """16 bits, [24, 32, 3], of more than 256 values."""
    return photo(3).astype(np.uint16) * 257 + np.arange(32, dtype=np.uint16)[None, :, None] % 2


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_what_pillow_gives(kind, photo, encoded):
    data = encoded(photo(1), kind)
    pixels = decode(data)
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGB")))
    assert pixels.dtype == np.uint8
    assert pixels.shape == (24, 32, 3)
    assert np.abs(pixels.astype(int) - photo(1)).mean() < 8  # it is this picture


def test_the_suffixes_are_those_of_the_kinds_that_are_decoded():
    extensions = Image.registered_extensions()
    assert {extensions[suffix] for suffix in SUFFIXES} <= set(_FORMATS)
    assert set(KINDS) <= set(_FORMATS)


def test_the_result_is_the_callers_own(photo, encoded):
    for data in (encoded(photo()), photo(), encoded(photo(), "TIFF"), tiff(photo().astype(np.uint16))):
        pixels = decode(data)
        assert pixels.flags.writeable
        assert pixels.flags.c_contiguous
    array = photo()
    decode(array)[:] = 0
    assert array.any()


def test_no_bytes():
    with pytest.raises(BadImage, match="empty"):
        decode(b"")
    with pytest.raises(BadImage, match="empty"):
        channels_of(b"")


@pytest.mark.parametrize("data", [b"no image", b"\xff\xd8\xff", b"%!PS-Adobe-3.0 EPSF-3.0\n", bytes(2000), b"II*\0"])
def test_what_is_no_image(data):
    with pytest.raises(BadImage):
        decode(data)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_file_cut_short_is_bad(kind, share, photo, encoded, capfd):
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    data = encoded(noise, kind)
    with pytest.raises(BadImage) as found:
        decode(data[: int(share * len(data))])
    assert len(str(found.value).splitlines()) == 1
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "jpeg"])
def test_a_tiff_cut_short_is_bad_and_nothing_is_printed(compression, photo, encoded, deep, capfd, caplog):
    data = encoded(photo(height=200, width=300), "TIFF", compression=compression)
    for length in range(8, len(data), len(data) // 20):
        with pytest.raises(BadImage):
            decode(data[:length])
    data = tiff(deep, compression="zlib" if compression else None)
    with pytest.raises(BadImage):
        decode(data[:-100])
    assert capfd.readouterr() == ("", "")


def test_damaged_files_are_bad_or_decoded_and_always_alike(photo, encoded, deep, capfd):
    files = [encoded(photo(), kind) for kind in KINDS if kind != "TIFF"]
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


def test_a_decompression_bomb_is_refused_by_its_header():
    for width, height in ((100_000, 100_000), (12_000, 12_000), (20_000, 20_000)):
        with pytest.raises(BadImage, match=f"more than the limit of {PIXEL_LIMIT} pixels"):
            decode(png_header(width, height))
    with pytest.raises(BadImage, match="cut short"):  # within the limit, though Pillow would warn
        decode(png_header(10_000, 10_000))


def tiff_bomb(dtype: str) -> bytes:
    """60,000 x 60,000 pixels, says its header."""
    data = bytearray(tiff(np.zeros((8, 8), dtype)))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        tags = file.pages[0].tags
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            place, length = tags[name].valueoffset, tags[name].valuebytecount
            data[place : place + length] = (60_000).to_bytes(length, "little")
    return bytes(data)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_tiff_bomb_is_refused_by_its_header(dtype):
    with pytest.raises(BadImage, match=f"60000 x 60000 pixels, more than the limit of {PIXEL_LIMIT} pixels"):
        decode(tiff_bomb(dtype))


def test_cmyk(photo, encoded):
    image = Image.fromarray(photo()).convert("CMYK")
    for kind in ("JPEG", "TIFF"):
        data = encoded(image, kind)
        with Image.open(io.BytesIO(data)) as stored:
            assert stored.mode == "CMYK"
            np.testing.assert_array_equal(decode(data), np.asarray(stored.convert("RGB")))
        assert channels_of(data) == 3
        assert decode(data, 4).shape == (24, 32, 4)


def test_palettes_with_and_without_transparency(photo, encoded):
    image = Image.fromarray(photo()).quantize(16)
    colors = np.asarray(image.convert("RGB"))
    for options in ({}, {"transparency": 3}, {"transparency": bytes(range(16))}):
        data = encoded(image, "PNG", **options)
        np.testing.assert_array_equal(decode(data), colors)
        assert channels_of(data) == 3
    np.testing.assert_array_equal(decode(encoded(image, "TIFF")), colors)


def test_alpha_is_dropped(photo, encoded):
    rgba = np.dstack([photo(), np.arange(24 * 32).reshape(24, 32) % 256]).astype(np.uint8)
    for data in (encoded(rgba), encoded(rgba, "TIFF"), encoded(rgba, "WEBP", lossless=True, exact=True)):
        np.testing.assert_array_equal(decode(data), rgba[..., :3])
        np.testing.assert_array_equal(decode(data, 4), rgba)
        assert channels_of(data) == 3
    gray = encoded(Image.fromarray(rgba).convert("LA"))
    assert channels_of(gray) == 1
    np.testing.assert_array_equal(decode(gray), decode(gray, 1).repeat(3, axis=2))
    deep_rgba = rgba.astype(np.uint16) * 257
    np.testing.assert_array_equal(decode(tiff(deep_rgba)), deep_rgba[..., :3])


def test_gray_and_color(photo, encoded):
    gray = np.asarray(Image.fromarray(photo()).convert("L"))
    for kind in ("PNG", "TIFF", "BMP"):
        data = encoded(gray, kind)
        np.testing.assert_array_equal(decode(data, 1)[..., 0], gray)
        np.testing.assert_array_equal(decode(data, 3), np.dstack([gray] * 3))
        assert channels_of(data) == 1
        assert channels_of(encoded(photo(), kind)) == 3
    np.testing.assert_array_equal(decode(encoded(photo()), 1)[..., 0], gray)
    np.testing.assert_array_equal(decode(photo(), 1)[..., 0], gray)  # our luma is Pillow's


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


def test_one_deep_pixel():
    assert decode(tiff(np.full((1, 1), 1000, np.uint16)), 1).tolist() == [[[1000]]]
    assert decode(tiff(np.full((1, 1, 3), 1000, np.uint16))).tolist() == [[[1000, 1000, 1000]]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation, photo, encoded, deep):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        data = encoded(photo(), kind, exif=exif)
        with Image.open(io.BytesIO(data)) as image:
            expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        np.testing.assert_array_equal(decode(data), expected)
    stored = tiff(deep, extratags=[(274, 3, 1, orientation, True)])  # 16 bits go another way
    np.testing.assert_array_equal(decode(stored), upright(deep, orientation))
    assert decode(stored).shape[:2] == ((32, 24) if orientation > 4 else (24, 32))


def test_a_jpeg_is_reduced_as_far_as_it_is_allowed(photo, encoded):
    exif = Image.Exif()
    exif[0x0112] = 6
    asked = []

    def shrink(height: int, width: int) -> int:
        asked.append((height, width))
        return 4

    small = decode(encoded(photo(0, 88, 60), "JPEG", exif=exif, quality=95), 3, shrink)
    assert asked == [(60, 88)]  # as it is seen
    assert small.shape == (15, 22, 3)
    assert small.flags.writeable
    expected = np.asarray(
        Image.fromarray(photo(0, 88, 60)).rotate(-90, expand=True).resize((22, 15), Image.Resampling.BOX)
    )
    assert np.abs(small.astype(int) - expected).mean() < 3
    assert decode(encoded(photo(0, 90, 61), "JPEG"), 1, shrink).shape == (23, 16, 1)
    assert decode(encoded(Image.fromarray(photo()).convert("CMYK"), "JPEG"), 3, shrink).shape == (6, 8, 3)
    album = encoded(photo(0, 60, 80), "MPO", save_all=True, append_images=[Image.fromarray(photo(1))])
    assert decode(album, 3, shrink).shape == (15, 20, 3)
    assert decode(encoded(photo(0, 7, 90), "JPEG"), 3, shrink).shape == (7, 90, 3)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "JPEG"])
def test_no_other_kind_is_reduced(kind, photo, encoded):
    data = encoded(photo(), kind)
    np.testing.assert_array_equal(decode(data, 3, lambda height, width: 2), decode(data))
    np.testing.assert_array_equal(decode(photo(), 3, lambda height, width: 2), photo())


def test_a_broken_exif_block_does_not_matter(photo, encoded):
    for block in (b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff"):
        np.testing.assert_array_equal(decode(encoded(photo(), "JPEG", exif=block)), decode(encoded(photo(), "JPEG")))


def test_16_bit_gray(deep, encoded):
    gray = deep[..., 0]
    pgm = b"P5 32 24 65535\n" + gray.astype(">u2").tobytes()
    big_endian = tiff(gray, byteorder=">")
    for data in (encoded(gray), encoded(gray, "TIFF"), tiff(gray), tiff(gray, compression="zlib"), big_endian, pgm):
        assert channels_of(data) == 1
        one, three = decode(data, 1), decode(data)
        assert one.dtype == three.dtype == np.dtype("uint16")
        np.testing.assert_array_equal(one[..., 0], gray)
        np.testing.assert_array_equal(three, np.dstack([gray] * 3))
    inverted = decode(tiff(gray, photometric="miniswhite"), 1)[..., 0]
    np.testing.assert_array_equal(inverted, 65535 - gray)


def test_16_bit_color_tiff(deep):
    for data in (tiff(deep), tiff(deep.transpose(2, 0, 1), planarconfig="separate", photometric="rgb")):
        np.testing.assert_array_equal(decode(data), deep)
        assert decode(data).dtype == np.uint16
        assert channels_of(data) == 3
    luma = decode(tiff(deep), 1)[..., 0]
    assert luma.dtype == np.uint16
    np.testing.assert_allclose(luma, deep @ [0.299, 0.587, 0.114], atol=1)


@pytest.mark.parametrize("count", [2, 4, 5, 13])
def test_many_channels(count, deep):
    bands = np.stack([np.roll(deep[..., 0], n, axis=1) for n in range(count)], axis=2)
    planes = bands.transpose(2, 0, 1)
    options = {"photometric": "minisblack", "metadata": None}
    files = [
        tiff(bands, planarconfig="contig", **options),
        tiff(planes, planarconfig="separate", **options),
        tiff(planes, imagej=True, metadata={"axes": "CYX"}),
        tiff(planes, ome=True, metadata={"axes": "CYX"}, photometric="minisblack"),
        tiff(planes, photometric="minisblack"),  # tifffile's own way: an array without names for its axes
        tiff(bands, photometric="minisblack"),
    ]
    for data in files:
        np.testing.assert_array_equal(decode(data, count), bands)
        assert channels_of(data) == count
        with pytest.raises(BadImage, match=r"channels"):
            decode(data, 3)
        with pytest.raises(BadImage, match=r"channels"):
            decode(data, count + 1)
    shallow = tiff((bands // 256).astype(np.uint8), planarconfig="contig", **options)
    np.testing.assert_array_equal(decode(shallow, count), bands // 256)


def test_a_stack_gives_all_channels_of_its_first_frame(deep):
    stack = np.random.default_rng(0).integers(0, 65536, (2, 3, 4, 16, 20), dtype=np.uint16)
    first = stack[0, 0].transpose(1, 2, 0)
    whole = tiff(stack, imagej=True, metadata={"axes": "TZCYX"})
    in_one_block = tiff(stack, imagej=True, metadata={"axes": "TZCYX"}, truncate=True)
    ome = tiff(stack.transpose(2, 0, 1, 3, 4), ome=True, metadata={"axes": "CTZYX"})
    for data in (whole, in_one_block, ome):
        np.testing.assert_array_equal(decode(data, 4), first)
    times = tiff(stack[:, 0, 0], imagej=True, metadata={"axes": "TYX"})
    np.testing.assert_array_equal(decode(times, 1)[..., 0], stack[0, 0, 0])
    assert channels_of(times) == 1


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "uint32", "complex64"])
def test_values_without_a_known_range_are_refused(dtype):
    with pytest.raises(BadImage, match="range is not known"):
        decode(tiff(np.ones((4, 4), dtype)), 1)


def test_other_deep_kinds_are_refused(encoded):
    with pytest.raises(BadImage, match="range is not known"):
        decode(b"Pf\n2 2\n-1.0\n" + np.ones(4, np.float32).tobytes())


def test_wrong_number_of_channels(photo, encoded):
    with pytest.raises(BadImage, match="3 channels where 4 are wanted"):
        decode(encoded(photo()), 4)
    with pytest.raises(BadImage, match="1 channel where 2 are wanted"):
        decode(encoded(photo()[..., 0]), 2)


def test_arrays(photo):
    np.testing.assert_array_equal(decode(photo()), photo())
    np.testing.assert_array_equal(decode(photo()[..., 0]), np.dstack([photo()[..., 0]] * 3))
    assert decode(np.ones((3, 4, 7), np.uint16), 7).dtype == np.uint16
    assert channels_of(np.ones((3, 4, 7), np.uint16)) == 7
    for wrong in (np.ones((3, 3)), np.ones((0, 3, 3), np.uint8), np.ones(3, np.uint8), np.ones((2, 2, 2, 2), np.uint8)):
        with pytest.raises(BadImage, match="uint8 or uint16"):
            decode(wrong)
    with pytest.raises(BadImage, match="5 channels where 3"):
        decode(np.ones((3, 4, 5), np.uint8))


def test_compressed_deep_tiff(deep, encoded):
    gray = encoded(deep[..., 0], "TIFF", compression="tiff_lzw")
    np.testing.assert_array_equal(decode(gray, 1)[..., 0], deep[..., 0])  # needs no other package
    assert refusal("import sys; sys.modules['imagecodecs'] = None", gray).stdout == b""
    for options in ({"compression": "lzw"}, {"compression": "zlib", "predictor": True}):
        pytest.importorskip("imagecodecs", reason="imagecodecs is not installed: scripts/install tiff")
        np.testing.assert_array_equal(decode(tiff(deep, **options)), deep)
    found = refusal("import sys; sys.modules['imagecodecs'] = None", tiff(deep, compression="lzw"))
    assert b"pip install imagecodecs" in found.stdout
    assert found.stderr == b""


def test_what_tifffile_logs_is_not_printed():
    found = refusal("", tiff_bomb("uint8"))
    assert b"limit" in found.stdout
    assert found.stderr == b""


def refusal(before: str, data: bytes) -> subprocess.CompletedProcess[bytes]:
    """What a fresh program prints about an image."""
    program = (
        f"{before}\nimport sys\nfrom coterie.data.decoding.decode import decode\nfrom coterie.errors import BadImage\n"
        "try: decode(sys.stdin.buffer.read())\nexcept BadImage as error: print(error)"
    )
    return subprocess.run([sys.executable, "-c", program], input=data, capture_output=True, check=True)
