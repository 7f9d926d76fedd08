"""Every kind of TIFF pixel gives the color of TIFF 6.0's formulas, or is refused for the true reason; never another color."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest

from coterie.data.decoding.decode import count_channels, decode
from coterie.errors import BadImage
from tests.data.tiffs import (
    CIELAB,
    COLOR_SAMPLES,
    ICCLAB,
    ITULAB,
    MASK,
    PALETTE,
    RGB,
    SEPARATED,
    YCBCR,
    color,
    write_tiff,
)

pytest.importorskip("imagecodecs", reason="imagecodecs is not installed: scripts/install tiff")

BITS = (1, 2, 4, 8, 10, 12, 14, 16, 32)
ALPHA = ((), (0,), (1,), (2,))  # none, unspecified, associated, unassociated
LAB = (CIELAB, ICCLAB, ITULAB)


def reason(photometric: int, bits: int, extra: tuple[int, ...]) -> str | None:
    """Why such a file is refused as RGB; None if it is not."""
    if bits == 32:
        return "uint32 values, whose range is not known"
    if extra == (0,):
        return r"channels where 3 are needed|with \d samples is not supported"
    if photometric in (*LAB, YCBCR) and extra == (1,):
        return "with premultiplied alpha is not supported"
    if (photometric in LAB and bits not in (8, 16)) or (photometric == YCBCR and bits < 8):
        return f"of {bits} bits is not supported"
    return None


def values(photometric: int, bits: int, extra: tuple[int, ...]) -> np.ndarray:
    """Random samples; premultiplied where alpha is associated."""
    generator, top = np.random.default_rng(bits), 2**bits - 1
    drawn = generator.integers(0, top, (3, 8, COLOR_SAMPLES[photometric] + len(extra)), dtype=np.int64, endpoint=True)
    if extra == (1,) and photometric != PALETTE:
        drawn[..., :-1] = drawn[..., :-1] * drawn[..., -1:] // top
    return drawn.astype(np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.uint32)


def files(samples: np.ndarray, bits: int, photometric: int, **options: object) -> Iterator[tuple[str, bytes]]:
    """In both byte orders and planar configurations, compressed in several ways."""
    kinds = [("<", "none"), (">", "none"), (">", "deflate"), ("<", "packbits")]
    kinds += [("<", "predictor"), (">", "predictor")] if bits in (8, 16) else []
    for planar, (order, compression) in product((False, True), kinds):
        data = write_tiff(samples, bits, photometric, planar=planar, order=order, compression=compression, **options)
        yield f"{bits} bits, {options.get('extra')}, planar {planar}, {order}, {compression}", data


@pytest.mark.parametrize("photometric", COLOR_SAMPLES)
def test_every_kind_of_pixel(photometric, capfd):
    channels = 1 if COLOR_SAMPLES[photometric] == 1 and photometric != PALETTE else 3
    for bits, extra in product(BITS, ALPHA):
        if photometric == PALETTE and bits > 14:
            continue  # see below
        samples, why = values(photometric, bits, extra), reason(photometric, bits, extra)
        options = {"extra": extra, "tags": {530: ("H", [1, 1])} if photometric == YCBCR else {}}  # no subsampling
        colors = np.random.default_rng(0).integers(0, 65536, (2 ** min(bits, 14), 3), dtype=np.uint16)
        options |= {"colors": colors} if photometric == PALETTE else {}
        if why:
            with pytest.raises(BadImage, match=why):
                decode(write_tiff(samples, bits, photometric, **options))
            continue
        limit, tolerance = (65535, 6 if photometric in LAB else 2) if bits > 8 else (255, 1.5)
        expected = color(samples, bits, photometric, extra, colors) * limit
        for case, data in files(samples, bits, photometric, **options):
            found = decode(data)
            assert found.dtype == (np.uint8 if bits <= 8 else np.uint16), case
            assert np.abs(found - expected).max() <= tolerance, case
        assert count_channels(data) == channels, case
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("photometric", [0, 1, RGB, PALETTE, SEPARATED])
def test_bytes_whose_first_bit_is_the_lowest(photometric):
    for bits in (1, 2, 4, 8, 12, 16):
        samples = values(photometric, bits, ())
        colors = np.random.default_rng(0).integers(0, 65536, (2 ** min(bits, 12), 3), dtype=np.uint16)
        if photometric == PALETTE and bits > 12:
            continue
        expected = color(samples, bits, photometric, (), colors) * (255 if bits <= 8 else 65535)
        options = {"colors": colors} if photometric == PALETTE else {}
        for case, data in files(samples, bits, photometric, backwards=True, **options):
            assert np.abs(decode(data) - expected).max() <= 1.5, case


def test_of_two_alphas_the_associated_one_is_divided_out():
    samples = np.array([[[10, 20, 30, 255, 100]]], np.uint8)
    assert decode(write_tiff(samples, 8, RGB, extra=(2, 1))).tolist() == [[[26, 51, 77]]]
    assert decode(write_tiff(samples, 8, RGB, extra=(1, 2))).tolist() == [[[10, 20, 30]]]


def test_a_palette_of_16_bits():
    colors = np.random.default_rng(0).integers(0, 65536, (65536, 3), dtype=np.uint16)
    samples = values(PALETTE, 16, ())
    for _, data in list(files(samples, 16, PALETTE, colors=colors))[:2]:
        np.testing.assert_array_equal(decode(data), colors[samples[..., 0]])


@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "float16", "float32", "float64"])
def test_values_without_a_known_range_are_refused(kind):
    for photometric, order, planar in product((0, 1, 2, 5, 8), "<>", (False, True)):
        samples = np.ones((2, 4, COLOR_SAMPLES[photometric]), kind)
        with pytest.raises(BadImage, match=f"^{kind} values, whose range is not known; set views.range, or scale"):
            decode(write_tiff(samples, samples.itemsize * 8, photometric, planar=planar, order=order))


def test_colors_of_well_known_lab_values():
    """sRGB's own colors, by L*a*b* tables for D50; white and gray stay neutral."""
    known = {(100, 0, 0): (255, 255, 255), (53.39, 0, 0): (127, 127, 127), (0, 0, 0): (0, 0, 0)}
    known |= {
        (54.29, 80.80, 69.89): (255, 0, 0),
        (87.82, -79.27, 80.99): (0, 255, 0),
        (29.57, 68.30, -112.03): (0, 0, 255),
    }
    lab = np.array(list(known))
    stored = np.concatenate([lab[:, :1] * 652.8, (lab[:, 1:] + 128) * 256], axis=1).round().astype(np.uint16)
    rgb = decode(write_tiff(stored[None], 16, ICCLAB))[0] / 257
    np.testing.assert_allclose(rgb, list(known.values()), atol=1.5)
    signed = np.concatenate([lab[:, :1] * 655.35, lab[:, 1:] * 256 % 65536], axis=1).round().astype(np.uint16)
    np.testing.assert_allclose(decode(write_tiff(signed[None], 16, CIELAB))[0] / 257, rgb, atol=0.02)


def test_lightness_alone_is_gray():
    stored = np.array([[[0], [136], [255]]], np.uint8)
    for photometric in LAB:
        data = write_tiff(stored, 8, photometric)
        assert count_channels(data) == 1
        np.testing.assert_allclose(decode(data, 1).ravel(), [0, 127, 255], atol=1)


def test_levels_and_coefficients_of_ycbcr():
    """ReferenceBlackWhite of video levels, and the luma of ITU-R BT.709."""
    fractions = [each for level in (16, 235, 128, 240, 128, 240) for each in (level, 1)]
    luma = [2126, 10000, 7152, 10000, 722, 10000]
    stored = np.array([[[16, 128, 128], [235, 128, 128], [63, 102, 240], [126, 128, 128]]], np.uint8)
    tags = {530: ("H", [1, 1]), 532: ("II", fractions), 529: ("II", luma)}
    found = [decode(write_tiff(stored, 8, YCBCR, tags=tags, compression=each)) for each in ("none", "deflate")]
    np.testing.assert_array_less(np.abs(found[0][0] - [[0] * 3, [255] * 3, [255, 0, 0], [128] * 3]), 3)
    np.testing.assert_array_less(np.abs(found[0].astype(int) - found[1]), 3)  # our own formula and libtiff's


def test_inks_and_depths_that_have_no_color():
    inks = np.ones((2, 4, 4), np.uint8)
    for compression in ("none", "deflate"):
        with pytest.raises(BadImage, match="inks other than cyan"):
            decode(write_tiff(inks, 8, SEPARATED, tags={332: ("H", [2])}, compression=compression))
    with pytest.raises(BadImage, match="SEPARATED with 3 samples is not supported"):
        decode(write_tiff(inks[..., :3], 8, SEPARATED))
    with pytest.raises(BadImage, match="photometric interpretation CFA with 1 samples is not supported"):
        decode(write_tiff(inks[..., :1], 8, 32803))
    data = bytearray(write_tiff(np.ones((2, 4, 3), np.uint8), 8, RGB))
    place = data.index(b"\x08\0\x08\0\x08\0")
    data[place : place + 6] = b"\x05\0\x06\0\x05\0"
    with pytest.raises(BadImage, match="different depths are not supported"):
        decode(bytes(data))
    with pytest.raises(BadImage, match=r"stored in a way that is not supported \(chroma subsampling"):
        decode(write_tiff(np.ones((2, 4, 3), np.uint8), 8, YCBCR, tags={530: ("H", [2, 2])}))


def test_samples_of_many_channels_keep_the_whole_range():
    stored = np.random.default_rng(0).integers(0, 4096, (3, 4, 5), dtype=np.uint16)
    found = decode(write_tiff(stored, 12, 1, extra=(0,) * 4), 5)
    np.testing.assert_array_equal(found, np.rint(stored / 4095 * 65535))
    np.testing.assert_array_equal(decode(write_tiff(stored, 12, 0, extra=(0,) * 4), 5), 65535 - found)
    np.testing.assert_array_equal(decode(write_tiff(stored[..., :1], 12, MASK), 1), found[..., :1])


@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "uint32", "float16", "float32", "float64"])
def test_values_of_a_stated_range(kind):
    """What lies outside becomes black or white, and so does what is not a number."""
    low, high = (0, 100) if kind.startswith("u") else (-100, 100)
    stored = np.array([[-128, -100, 0, 25], [50, 99, 100, 127]]).clip(0 if low == 0 else None)[..., None].astype(kind)
    expected = np.rint((stored.astype(np.float64) - low).clip(0, high - low) / (high - low) * 65535)
    bits = stored.itemsize * 8
    for order, planar in product("<>", (False, True)):
        found = decode(write_tiff(stored, bits, 1, order=order), 1, value_range=(low, high))
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == np.uint16
        white = decode(write_tiff(stored, bits, 0, order=order), 3, value_range=(low, high))
        np.testing.assert_array_equal(white, (65535 - expected).repeat(3, axis=2))
        rgb = np.concatenate([stored, stored[::-1], stored[:, ::-1], stored], axis=2)
        color = np.concatenate([expected, expected[::-1], expected[:, ::-1]], axis=2)
        for alpha in ((), (2,)):
            data = write_tiff(rgb[..., : 3 + len(alpha)], bits, RGB, order=order, planar=planar, extra=alpha)
            np.testing.assert_array_equal(decode(data, value_range=(low, high)), color)
        bands = write_tiff(rgb, bits, 1, order=order, planar=planar, extra=(0,) * 3)
        np.testing.assert_array_equal(decode(bands, 4, value_range=(low, high))[..., :3], color)
    kinds = [(RGB, (1,), "premultiplied alpha"), (SEPARATED, (), "SEPARATED with"), (CIELAB, (), "CIELAB with")]
    for photometric, extra, why in kinds:
        samples = np.ones((2, 4, COLOR_SAMPLES[photometric] + len(extra)), kind)
        with pytest.raises(BadImage, match=why):
            decode(write_tiff(samples, bits, photometric, extra=extra), value_range=(low, high))


def test_what_is_not_a_number_is_black():
    stored = np.array([[[np.nan], [np.inf], [-np.inf], [0.5]]], np.float32)
    assert decode(write_tiff(stored, 32, 1), 1, value_range=(0, 1)).ravel().tolist() == [0, 65535, 0, 32768]
    pfm = b"Pf\n2 1\n-1.0\n" + np.array([0.25, 7], np.float32).tobytes()
    assert decode(pfm, 1, value_range=(0, 1)).ravel().tolist() == [16384, 65535]


def test_a_range_changes_nothing_where_the_range_is_known(photo):
    for data in (write_tiff(photo(), 8, RGB), write_tiff(photo().astype(np.uint16) * 257, 16, RGB)):
        np.testing.assert_array_equal(decode(data, value_range=(-5, 5)), decode(data))
