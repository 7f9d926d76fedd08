"""From the stored samples of a TIFF page to gray or RGB: TIFF 6.0's photometric interpretations, depths and alpha."""

from collections.abc import Callable

import numpy as np
import tifffile
from jaxtyping import Float32, Shaped

from coterie.data.decoding.pixels import Depth, PixelArray, Stored, by_rows
from coterie.errors import BadImage

_COLORS = {
    "MINISBLACK": (1,), "MINISWHITE": (1,), "MASK": (1,), "PALETTE": (1,), "RGB": (3,), "YCBCR": (3,), "SEPARATED": (4,),
    "CIELAB": (1, 3), "ICCLAB": (1, 3), "ITULAB": (1, 3),
}  # fmt: skip
"""The number of samples of a color. The one sample of a L*a*b* image is its lightness."""
_ASSOCIATED, _UNASSOCIATED = 1, 2  # TIFF 6.0, ExtraSamples
INK_SET, _COEFFICIENTS, _SUBSAMPLING, _BLACK_WHITE = 332, 529, 530, 532
_TO_RGB = (6, 7, 33003, 33004, 33005, 34712, 34892, 50001, 50002, 52546)  # JPEG and its kin: decoded, they are RGB

# From XYZ (D50) to linear sRGB: Bradford's adaptation to D65, then IEC 61966-2-1.
_TO_SRGB = np.array(
    [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540], [0.0719453, -0.2289914, 1.4052427]], "f4"
)
_D50 = np.array([0.96422, 1.0, 0.82521], "f4")


def photometric(page: tifffile.TiffPage) -> str:
    """The name of the photometric interpretation, "" if it has none."""
    return str(getattr(page.photometric, "name", ""))


def alpha_samples(page: tifffile.TiffPage) -> int:
    """The number of alpha samples of a pixel, next to gray or a color."""
    alpha = sum(int(sample) in (_ASSOCIATED, _UNASSOCIATED) for sample in page.extrasamples)
    return alpha if page.samplesperpixel - alpha in (1, 3, *_COLORS.get(photometric(page), ())) else 0


def is_premultiplied(page: tifffile.TiffPage) -> bool:
    """Whether a sample is alpha by which the color was multiplied."""
    return _ASSOCIATED in [int(sample) for sample in page.extrasamples]


def is_color(page: tifffile.TiffPage) -> bool:
    """Whether the samples of a pixel are exactly what its photometric interpretation says, and perhaps alpha."""
    return page.samplesperpixel - alpha_samples(page) in _COLORS.get(photometric(page), ())


def full_range(stored: Stored, bits: int) -> PixelArray:
    """Scale values of 1 to 16 bits to the whole range of 8 bits, or of 16 where they have more than 8."""
    if bits in (8, 16):
        return stored
    top, limit = 2**bits - 1, _limit(bits)
    return by_rows(
        lambda rows: (rows.astype(np.uint32) * limit + top // 2) // top, stored, stored.shape[2], _dtype(bits)
    )


def _limit(bits: int) -> int:
    return 255 if bits <= 8 else 65535


def _dtype(bits: int) -> Depth:
    return np.dtype(np.uint8) if bits <= 8 else np.dtype(np.uint16)


def to_color(stored: Stored, page: tifffile.TiffPage) -> PixelArray:
    """Gray or RGB without alpha.

    Associated alpha is divided out, any other dropped. CMYK becomes RGB as ``(1 - C) (1 - K)``, L*a*b* (D50, as ICC profiles
    and Photoshop have it) becomes sRGB.

    Args:
        stored: ``[H, W, S]``, the stored samples: bool or unsigned, at most 16 bits.
        page: A page for which `is_color` holds.

    Returns:
        ``[H, W, 1 or 3]``, uint8, or uint16 for more than 8 bits.

    Raises:
        BadImage: The combination has no meaning.
    """
    name, bits = photometric(page), int(page.bitspersample)
    count = page.samplesperpixel - alpha_samples(page)
    if name == "PALETTE":
        return _looked_up(stored[..., 0], page, bits)
    if name == "SEPARATED" and page.tags.valueof(INK_SET, 1) != 1:
        raise BadImage("inks other than cyan, magenta, yellow and black")
    associated = is_premultiplied(page)
    decoded = name == "YCBCR" and int(page.compression) in _TO_RGB and int(page.planarconfig) != 2
    if decoded and alpha_samples(page):
        raise BadImage("YCBCR with alpha in a compression of colors is not supported")
    if name in ("CIELAB", "ICCLAB", "ITULAB") or (name == "YCBCR" and not decoded):
        if associated or bits < 8 or (name != "YCBCR" and bits not in (8, 16)):
            raise BadImage(f"{name} {'with premultiplied alpha' if associated else f'of {bits} bits'} is not supported")
        by_formula = _ycbcr(page, bits) if name == "YCBCR" else _lab(name, bits)
        return by_rows(by_formula, stored[..., :count], count, _dtype(bits))
    if name not in ("MINISWHITE", "SEPARATED") and not associated:
        return full_range(stored[..., :count], bits)
    top = np.uint32(_limit(bits))
    alpha = count + [int(sample) for sample in page.extrasamples].index(_ASSOCIATED) if associated else count

    def convert(rows: Stored) -> np.ndarray:
        color = full_range(rows[..., :count], bits).astype(np.uint32)
        if associated:
            color = _divided(rows[..., :count], rows[..., alpha : alpha + 1], color, top)
        if name == "MINISWHITE":
            return top - color
        return ((top - color[..., :3]) * (top - color[..., 3:]) + top // 2) // top if name == "SEPARATED" else color

    return by_rows(convert, stored, min(count, 3), _dtype(bits))


def _divided(stored: Stored, alpha: Stored, color: np.ndarray, top: np.uint32) -> np.ndarray:
    """Undo premultiplication; a color whose alpha is 0 stays as it is, as in Pillow."""
    alpha = alpha.astype(np.uint32)
    return np.where(alpha > 0, np.minimum((stored * top + alpha // 2) // np.maximum(alpha, 1), top), color)


def _looked_up(stored: Shaped[np.ndarray, "_ _"], page: tifffile.TiffPage, bits: int) -> PixelArray:
    palette = page.colormap
    if palette is None:
        raise BadImage("a palette image without its palette")
    colors: np.ndarray = palette.T if bits > 8 else palette.T >> 8  # as Pillow does
    return colors.astype(_dtype(bits))[stored.astype(np.intp)]


def _ycbcr(page: tifffile.TiffPage, bits: int) -> Callable[[Stored], Float32[np.ndarray, "_ _ 3"]]:
    """TIFF 6.0, section 21: from code to value by ReferenceBlackWhite, then to RGB by the luma coefficients."""
    top, middle, limit = 2**bits - 1, 2 ** (bits - 1), _limit(bits)
    levels = _fractions(page, _BLACK_WHITE) or [0, top, middle, top, middle, top]
    red, green, blue = _fractions(page, _COEFFICIENTS) or (0.299, 0.587, 0.114)
    black, white = np.array(levels[::2], "f4"), np.array(levels[1::2], "f4")
    if not (white != black).all() or not green:
        raise BadImage("damaged (ReferenceBlackWhite or YCbCrCoefficients is absurd)")
    scale = np.array([1.0, (top - middle) / top, (top - middle) / top], "f4") / (white - black)

    def convert(stored: Stored) -> Float32[np.ndarray, "_ _ 3"]:
        luma, cb, cr = np.moveaxis((stored.astype(np.float32) - black) * scale, 2, 0)
        r, b = luma + (2 - 2 * red) * cr, luma + (2 - 2 * blue) * cb
        return _codes(np.stack([r, (luma - red * r - blue * b) / green, b], axis=2), limit)

    return convert


def is_usual_ycbcr(page: tifffile.TiffPage) -> bool:
    """Whether YCbCr is that of JPEG, without subsampling."""
    return page.tags.valueof(_SUBSAMPLING) == (1, 1) and not {_BLACK_WHITE, _COEFFICIENTS} & set(page.tags.keys())


def _fractions(page: tifffile.TiffPage, tag: int) -> list[float] | None:
    """Rational numbers, each stored as two; None if the tag is missing or damaged."""
    stored = page.tags.valueof(tag) or ()
    if len(stored) != {_BLACK_WHITE: 12, _COEFFICIENTS: 6}[tag] or not all(stored[1::2]):
        return None
    return [over / under for over, under in zip(stored[::2], stored[1::2], strict=True)]


def _lab(name: str, bits: int) -> Callable[[Stored], Float32[np.ndarray, "_ _ _"]]:
    """From the codes of TIFF 6.0 (a* and b* signed), of ICC profiles, or of ITU-T T.42, to sRGB."""
    top, unit = 2**bits - 1, 2 ** (bits - 8)
    white = 0xFF00 if (name, bits) == ("ICCLAB", 16) else top  # 16 bits of ICC profiles, version 2
    limit = _limit(bits)

    def convert(stored: Stored) -> Float32[np.ndarray, "_ _ _"]:
        values = stored.astype(np.float32)
        opposed = values[..., 1:]
        if name == "CIELAB":
            opposed = np.where(opposed >= 2 ** (bits - 1), opposed - 2**bits, opposed) / unit
        elif name == "ICCLAB":
            opposed = opposed / unit - 128
        elif opposed.size:
            opposed = opposed * (np.array([170, 200], "f4") / top) - np.array([85, 75], "f4")
        root = (values[..., 0] * (100 / white) + 16) / 116
        if not opposed.size:
            return _codes(_companded(_cubed(root[..., None])), limit)
        roots = np.stack([root + opposed[..., 0] / 500, root, root - opposed[..., 1] / 200], axis=2)
        return _codes(_companded(_cubed(roots) * _D50 @ _TO_SRGB.T), limit)

    return convert


def _codes(values: Float32[np.ndarray, "_ _ _"], limit: int) -> Float32[np.ndarray, "_ _ _"]:
    codes: np.ndarray = np.rint(values.clip(0, 1) * limit)
    return codes


def _cubed(roots: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """The inverse of CIE 1976's f."""
    cubes: np.ndarray = np.where(roots > 6 / 29, roots**3, (roots - np.float32(4 / 29)) * np.float32(108 / 841))
    return cubes


def _companded(linear: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """The curve of sRGB."""
    linear = linear.clip(0, 1)
    bent: np.ndarray = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** np.float32(1 / 2.4) - 0.055)
    return bent
