import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import tifffile

from coterie.data.decoding.decode import count_channels, decode
from coterie.data.decoding.pixels import BYTE_LIMIT, PIXEL_LIMIT
from coterie.data.decoding.tiff import is_tiff, read_tiff, tiff_channels
from coterie.errors import BadImage
from tests.data.pictures import deep_photo, photo, tiff


def test_files_are_recognized_by_their_first_bytes(encoded):
    for data in (tiff(deep_photo()), tiff(deep_photo(), byteorder=">"), tiff(deep_photo(), bigtiff=True)):
        assert is_tiff(data)
    assert not is_tiff(encoded(photo()))
    assert not is_tiff(b"II")


def test_what_pillow_reads_correctly_is_left_to_it(encoded):
    gray, color = photo()[..., 0], photo()
    for data, channels in (
        (tiff(gray), 1),
        (tiff(color), 3),
        (encoded(color, "TIFF"), 3),
        (tiff(deep_photo()[..., 0]), 1),
    ):
        assert read_tiff(data, channels) is None
    assert read_tiff(tiff(deep_photo()), 3) is not None
    assert read_tiff(tiff(color), 4) is not None  # with all its samples


def test_channels_are_counted_without_alpha():
    rgba = np.dstack([photo(), photo()[..., :1]])
    assert tiff_channels(tiff(rgba, photometric="rgb")) == 3
    assert tiff_channels(tiff(rgba, photometric="rgb", extrasamples=["unspecified"])) == 4
    assert tiff_channels(tiff(rgba[..., [0, 3]], photometric="minisblack", extrasamples=["unassalpha"])) == 1
    assert tiff_channels(tiff(photo()[..., 0] // 128 > 0)) == 1


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_pages_in_a_circle_are_refused(order, big):
    data = bytearray(tiff(photo()[..., 0], byteorder=order, bigtiff=big, metadata=None))
    pointer = struct.Struct(order + ("Q" if big else "I"))
    (page,) = pointer.unpack_from(data, 8 if big else 4)
    tags = struct.Struct(order + ("Q" if big else "H"))
    end = page + tags.size + (20 if big else 12) * tags.unpack_from(data, page)[0]
    assert pointer.unpack_from(data, end) == (0,)  # the last page
    pointer.pack_into(data, end, page)
    for read in (lambda: read_tiff(bytes(data), 1), lambda: tiff_channels(bytes(data))):
        with pytest.raises(BadImage, match="pages of this TIFF file form a circle"):
            read()


def test_images_of_many_channels_are_limited_by_bytes(monkeypatch):
    bands = np.zeros((8, 8, 5), np.uint16)
    data = tiff(bands, planarconfig="contig", photometric="minisblack", metadata=None)
    assert read_tiff(data, 5) is not None
    monkeypatch.setattr("coterie.data.decoding.pixels.BYTE_LIMIT", bands.nbytes - 1)
    with pytest.raises(BadImage, match=f"{bands.nbytes} bytes when decoded, more than the limit"):
        read_tiff(data, 5)
    assert BYTE_LIMIT == 2**30


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "jpeg"])
def test_truncated_files_are_refused_and_nothing_is_printed(compression, photo, encoded, capfd):
    data = encoded(photo(height=200, width=300), "TIFF", compression=compression)
    for length in range(8, len(data), len(data) // 20):
        with pytest.raises(BadImage):
            decode(data[:length])
    data = tiff(deep_photo(), compression="zlib" if compression else None)
    with pytest.raises(BadImage):
        decode(data[:-100])
    assert capfd.readouterr() == ("", "")


def tiff_bomb(dtype: str) -> bytes:
    """A file whose header states 60,000 x 60,000 pixels."""
    data = bytearray(tiff(np.zeros((8, 8), dtype)))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        tags = file.pages[0].tags
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            place, length = tags[name].valueoffset, tags[name].valuebytecount
            data[place : place + length] = (60_000).to_bytes(length, "little")
    return bytes(data)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_decompression_bombs_are_refused_by_their_header(dtype):
    with pytest.raises(BadImage, match=f"60000 x 60000 pixels, more than the limit of {PIXEL_LIMIT} pixels"):
        decode(tiff_bomb(dtype))


def test_one_16_bit_pixel():
    assert decode(tiff(np.full((1, 1), 1000, np.uint16)), 1).tolist() == [[[1000]]]
    assert decode(tiff(np.full((1, 1, 3), 1000, np.uint16))).tolist() == [[[1000, 1000, 1000]]]


def test_16_bit_color():
    deep = deep_photo()
    for data in (tiff(deep), tiff(deep.transpose(2, 0, 1), planarconfig="separate", photometric="rgb")):
        np.testing.assert_array_equal(decode(data), deep)
        assert decode(data).dtype == np.uint16
        assert count_channels(data) == 3
    luma = decode(tiff(deep), 1)[..., 0]
    assert luma.dtype == np.uint16
    np.testing.assert_allclose(luma, deep @ [0.299, 0.587, 0.114], atol=1)


@pytest.mark.parametrize("count", [2, 4, 5, 13])
def test_many_channels(count):
    bands = np.stack([np.roll(deep_photo()[..., 0], n, axis=1) for n in range(count)], axis=2)
    planes = bands.transpose(2, 0, 1)
    options = {"photometric": "minisblack", "metadata": None}
    files = [
        tiff(bands, planarconfig="contig", **options),
        tiff(planes, planarconfig="separate", **options),
        tiff(planes, imagej=True, metadata={"axes": "CYX"}),
        tiff(planes, ome=True, metadata={"axes": "CYX"}, photometric="minisblack"),
    ]
    for data in files:
        np.testing.assert_array_equal(decode(data, count), bands)
        assert count_channels(data) == count
        with pytest.raises(BadImage, match=r"channels"):
            decode(data, 3)
        with pytest.raises(BadImage, match=r"channels"):
            decode(data, count + 1)
    shallow = tiff((bands // 256).astype(np.uint8), planarconfig="contig", **options)
    np.testing.assert_array_equal(decode(shallow, count), bands // 256)


@pytest.mark.parametrize("count", [2, 3, 5, 20, 100])
def test_pages_of_an_array_whose_axes_have_no_names(count):
    """They are pages, of which the first is read; and channels for who says so."""
    planes = np.stack([np.roll(deep_photo()[..., 0], n, axis=1) for n in range(count)])
    for each in (planes, (planes // 256).astype(np.uint8)):
        data = tiff(each, photometric="minisblack")
        assert count_channels(data) == 1
        np.testing.assert_array_equal(decode(data, 1)[..., 0], each[0])
        np.testing.assert_array_equal(decode(data, 3), each[0][..., None].repeat(3, axis=2))
        if count != 3:
            np.testing.assert_array_equal(decode(data, count), each.transpose(1, 2, 0))
            last = tiff(each.transpose(1, 2, 0), photometric="minisblack")
            np.testing.assert_array_equal(decode(last, count), each.transpose(1, 2, 0))
            with pytest.raises(
                BadImage, match=r"whose axes have no names; set views\.channels to its first or last length"
            ):
                decode(data, 7)


def test_stacks_give_all_channels_of_their_first_frame():
    stack = np.random.default_rng(0).integers(0, 65536, (2, 3, 4, 16, 20), dtype=np.uint16)
    first = stack[0, 0].transpose(1, 2, 0)
    whole = tiff(stack, imagej=True, metadata={"axes": "TZCYX"})
    in_one_block = tiff(stack, imagej=True, metadata={"axes": "TZCYX"}, truncate=True)
    ome = tiff(stack.transpose(2, 0, 1, 3, 4), ome=True, metadata={"axes": "CTZYX"})
    for data in (whole, in_one_block, ome):
        np.testing.assert_array_equal(decode(data, 4), first)
    times = tiff(stack[:, 0, 0], imagej=True, metadata={"axes": "TYX"})
    np.testing.assert_array_equal(decode(times, 1)[..., 0], stack[0, 0, 0])
    assert count_channels(times) == 1


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "uint32", "complex64"])
def test_values_without_a_known_range_are_refused(dtype):
    with pytest.raises(BadImage, match="range is not known"):
        decode(tiff(np.ones((4, 4), dtype)), 1)


def test_compressed_16_bits(encoded):
    deep = deep_photo()
    gray = encoded(deep[..., 0], "TIFF", compression="tiff_lzw")
    np.testing.assert_array_equal(decode(gray, 1)[..., 0], deep[..., 0])  # needs no other package
    assert refusal("import sys; sys.modules['imagecodecs'] = None", gray).stdout == b""
    for options in ({"compression": "lzw"}, {"compression": "zlib", "predictor": True}):
        pytest.importorskip("imagecodecs")
        np.testing.assert_array_equal(decode(tiff(deep, **options)), deep)
    found = refusal("import sys; sys.modules['imagecodecs'] = None", tiff(deep, compression="lzw"))
    assert b"pip install 'coterie[tiff]'" in found.stdout
    assert found.stderr == b""


@pytest.mark.parametrize("compression", ["webp", "jpeg2000", "jpegxl", "lerc", "png", "jpeg", "lzw", "zstd", "lzma"])
def test_compressions_in_both_byte_orders_and_sizes(compression, photo, capfd):
    """Large ones of big byte order, which Pillow does not read, and compressions that it does not know."""
    pytest.importorskip("imagecodecs")
    lossless = compression not in ("webp", "jpeg2000", "jpegxl", "jpeg")
    arguments = (
        {"lossless": True} if compression in ("webp", "jpegxl") else {"level": 0} if compression == "jpeg2000" else None
    )
    for order, big in (("<", False), (">", False), ("<", True), (">", True)):
        kinds = {"compression": compression, "compressionargs": arguments, "byteorder": order, "bigtiff": big}
        data = tiff(photo(), photometric="rgb", **kinds)
        assert np.abs(decode(data).astype(int) - photo()).max() <= (
            20 if compression == "jpeg" else 0 if lossless else 2
        )
        if compression not in ("webp", "jpeg") and order == "<":  # imagecodecs encodes native integers only
            deep = tiff(deep_photo(), photometric="rgb", **kinds)
            assert np.abs(decode(deep).astype(int) - deep_photo()).max() <= (0 if lossless else 2)
    assert capfd.readouterr() == ("", "")


def test_a_damaged_png_within_is_refused_and_nothing_is_printed(capfd):
    pytest.importorskip("imagecodecs")
    data = tiff(photo(), photometric="rgb", compression="png")
    start, last = data.index(b"\x89PNG"), data.index(b"IEND")
    for place in (start + 1, start + 16, start + 25, start + 28, start + 60, last - 10, last + 1, last + 7):
        broken = bytearray(data)
        broken[place] ^= 64
        with pytest.raises(BadImage, match=r"damaged|truncated|PNG of"):
            decode(_with_checksums(bytes(broken), start))
    assert capfd.readouterr() == ("", "")


def _with_checksums(data: bytes, place: int) -> bytes:
    """Correct those of the chunks of the PNG stream at a place, so that the damage reaches what is behind them."""
    repaired, place = bytearray(data), place + 8
    while data[place + 4 : place + 8] in (b"IHDR", b"IDAT"):
        length = int.from_bytes(data[place : place + 4], "big")
        repaired[place + 8 + length : place + 12 + length] = zlib.crc32(data[place + 4 : place + 8 + length]).to_bytes(
            4, "big"
        )
        place += 12 + length
    return bytes(repaired)


@pytest.mark.parametrize("compression", ["webp", "jpegxl", "lerc", "jpeg2000", "png"])
def test_without_imagecodecs_one_line_names_the_extra(compression, photo, monkeypatch):
    pytest.importorskip("imagecodecs")
    data = tiff(photo(), compression=compression)

    def missing(*_: object) -> None:
        raise ValueError(
            f"COMPRESSION.{compression} requires the 'imagecodecs' package"
        )  # the words of tifffile without it

    monkeypatch.setattr(tifffile.TiffPage, "asarray", missing)
    with pytest.raises(BadImage, match=r"requires the 'imagecodecs' package: pip install 'coterie\[tiff\]'"):
        decode(data)


def test_log_messages_of_tifffile_are_not_printed():
    found = refusal("", tiff_bomb("uint8"))
    assert b"limit" in found.stdout
    assert found.stderr == b""


def refusal(before: str, data: bytes) -> subprocess.CompletedProcess[bytes]:
    """What a new process prints about an image."""
    program = (
        f"{before}\nimport sys\nfrom coterie.data.decoding.decode import decode\nfrom coterie.errors import BadImage\n"
        "try: decode(sys.stdin.buffer.read())\nexcept BadImage as error: print(error)"
    )
    return subprocess.run([sys.executable, "-c", program], input=data, capture_output=True, check=True)
