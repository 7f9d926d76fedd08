"""Damaged image files of every format, some with headers that promise too much."""

import io
import struct
import zlib
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import tifffile
from PIL import Image

from coterie.data.decoding.decode import count_channels, decode
from tests.data.dicoms import dicom
from tests.data.pictures import deep_png, encoded, photo
from tests.data.tiffs import COLOR_SAMPLES, PALETTE, write_tiff
from tests.fuzz.mutations import damaged

_COMPRESSIONS = ("webp", "jpeg2000", "jpegxl", "lerc", "png", "zstd", "jpeg") if find_spec("imagecodecs") else ()


def _tiff(array: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def _tiffs_of_all_kinds() -> Iterator[bytes]:
    """Every photometric interpretation, depths, planes, alpha."""
    generator = np.random.default_rng(0)
    for photometric, count in COLOR_SAMPLES.items():
        for bits, planar, extra, order in (
            (8, False, (1,), "<"),
            (8, True, (), ">"),
            (16, False, (1,), ">"),
            (12, True, (2,), "<"),
        ):
            samples = generator.integers(0, 2**bits, (6, 8, count + len(extra)), dtype=np.uint16)
            colors = (
                generator.integers(0, 65536, (2 ** min(bits, 12), 3), dtype=np.uint16)
                if photometric == PALETTE
                else None
            )
            stored = samples.astype(np.uint8) if bits == 8 else samples
            kind = {"planar": planar, "extra": extra, "order": order, "colors": colors}
            yield write_tiff(stored, bits, photometric, compression="deflate" if planar else "none", **kind)


def _files() -> dict[str, list[bytes]]:
    picture = photo()
    image, gray, deep = Image.fromarray(picture), picture[..., 0], picture.astype(np.uint16) * 257
    palette, alpha = image.quantize(16), np.dstack([picture, gray])
    exif = Image.Exif()
    exif[0x0112] = 6
    stack = np.stack([deep[..., 0]] * 4)
    tiffs = [encoded(picture, "TIFF", compression=each) for each in (None, "tiff_lzw", "tiff_adobe_deflate", "jpeg")]
    tiffs += [
        encoded(palette, "TIFF"),
        _tiff(deep),
        _tiff(deep, compression="zlib"),
        _tiff(stack, photometric="minisblack"),
    ]
    tiffs += [
        _tiff(stack, imagej=True, metadata={"axes": "TYX"}),
        _tiff(deep, tile=(16, 16)),
        _tiff(picture, bigtiff=True),
    ]
    tiffs += [_tiff(stack, ome=True, metadata={"axes": "CYX"}, photometric="minisblack")]
    tiffs += [
        _tiff((deep // 256).astype(each), compression="zlib") for each in (np.float32, np.int16, np.int32, np.float16)
    ]
    tiffs += [*_tiffs_of_all_kinds(), *(_tiff(picture, compression=each) for each in _COMPRESSIONS)]
    tiffs += [
        _tiff(picture, bigtiff=True, byteorder=">"),
        _tiff(deep, compression="lerc"),
        _tiff(deep, tile=(16, 16), byteorder=">"),
    ]
    jpegs = [encoded(picture, "JPEG"), encoded(picture, "JPEG", progressive=True), encoded(gray, "JPEG")]
    jpegs += [encoded(image.convert("CMYK"), "JPEG"), encoded(picture, "JPEG", exif=exif, icc_profile=bytes(200))]
    gray_alpha = np.dstack([deep[..., 0], deep[..., 1]])
    pngs = [
        deep_png(each, passes)
        for each in (deep, np.dstack([deep, deep[..., 0]]), gray_alpha)
        for passes in (False, True)
    ]
    pngs += [encoded(each) for each in (picture, alpha, gray, palette, deep[..., 0], np.eye(9, dtype=bool))]
    return {
        "jpeg": jpegs,
        "png": pngs,
        "tiff": tiffs,
        "webp": [encoded(picture, "WEBP"), encoded(alpha, "WEBP", lossless=True, exif=exif)],
        "gif": [encoded(palette, "GIF", save_all=True, append_images=[palette.rotate(90)], duration=40)],
        "bmp": [encoded(each, "BMP") for each in (picture, gray, palette)],
        "ppm": [
            encoded(picture, "PPM"),
            b"P5 32 24 65535\n" + deep[..., 0].tobytes(),
            b"Pf\n4 3\n-1.0\n" + np.linspace(-200, 200, 12, dtype=np.float32).tobytes(),
            b"P3 2 1 9\n1 2 3 4 5 6",
            b"P1 3 2\n101010",
        ],
        "jpeg2000": [encoded(picture, "JPEG2000"), encoded(gray, "JPEG2000", no_jp2=True)],
        "avif": [encoded(picture, "AVIF")],
        "dicom": _dicoms(picture) if find_spec("pydicom") else [],
        "heif": _heifs(image) if find_spec("pillow_heif") else [],
    }


def _dicoms(picture: np.ndarray) -> list[bytes]:
    gray = picture[..., 0].astype(np.uint16) * 16
    window = {"WindowCenter": [40, 400], "WindowWidth": [400, 1500], "RescaleSlope": 1, "RescaleIntercept": -1024}
    table = {f"{color}PaletteColorLookupTableDescriptor": [256, 0, 8] for color in ("Red", "Green", "Blue")}
    table |= {f"{color}PaletteColorLookupTableData": bytes(range(256)) for color in ("Red", "Green", "Blue")}
    files = [dicom(gray, bits=12, **window), dicom(gray.astype(np.int16), "MONOCHROME1", frames=0)]
    files += [dicom(picture, "RGB"), dicom(picture, "RGB", rle=True), dicom(picture[..., 0], "PALETTE COLOR", **table)]
    return [*files, dicom(np.stack([gray, gray]), bits=12, frames=2), dicom(gray, bits=12, rle=True)]


def _heifs(image: Image.Image) -> list[bytes]:
    from pillow_heif import from_pillow

    files = []
    for each in (image, image.convert("L"), image.convert("RGBA")):
        file = io.BytesIO()
        from_pillow(each).save(file)
        files.append(file.getvalue())
    return files


def _with_checksums(data: bytes) -> bytes:
    """Correct the checksums of the chunks of a PNG file."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    parts, place = [data[:8]], 8
    while place + 8 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        chunk = data[place + 4 : place + 8 + length]
        parts += [data[place : place + 4], chunk, struct.pack(">I", zlib.crc32(chunk))]
        place += 12 + length
    return b"".join(parts)


FILES = _files()
INPUTS = {kind: damaged(files, _with_checksums if kind == "png" else bytes) for kind, files in FILES.items() if files}


def attempt(data: bytes) -> None:
    """Decode the image as a run does, with and without a range of values, at full and at reduced size."""
    pixels = decode(data, 3, value_range=(-100.0, 100.0))
    assert pixels.dtype in (np.uint8, np.uint16)
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    decode(data, 3, lambda height, width: 2)
    count_channels(data)
