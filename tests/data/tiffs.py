"""TIFF files of any kind, written tag by tag, and the color that the TIFF 6.0 specification gives their values."""

import struct
import zlib

import numpy as np

MINISWHITE, MINISBLACK, RGB, PALETTE, MASK, SEPARATED, YCBCR, CIELAB, ICCLAB, ITULAB = 0, 1, 2, 3, 4, 5, 6, 8, 9, 10
COLOR_SAMPLES = {0: 1, 1: 1, 2: 3, 3: 1, 4: 1, 5: 4, 6: 3, 8: 3, 9: 3, 10: 3}
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _OFFSETS, _SAMPLES = 256, 257, 258, 259, 262, 273, 277
_ROWS, _COUNTS, _PLANAR, _PREDICTOR, _COLORS, _EXTRA, _FORMAT = 278, 279, 284, 317, 320, 338, 339
_FILL_ORDER, _SIGNED, _FLOAT = 266, 2, 3
_BACKWARDS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def write_tiff(
    samples: np.ndarray,
    bits: int,
    photometric: int,
    *,
    planar: bool = False,
    extra: tuple[int, ...] = (),
    order: str = "<",
    compression: str = "none",
    colors: np.ndarray | None = None,
    backwards: bool = False,
    tags: dict[int, tuple[str, list[int]]] | None = None,
) -> bytes:
    """One page of one strip (of one strip per sample if planar).

    Args:
        samples: Stored values ``[H, W, S]``, of any integer or floating-point type.
        bits: Bits per sample; 1 to 15 are packed from the highest bit on, each row from a new byte.
        photometric: PhotometricInterpretation.
        planar: Samples on planes of their own.
        extra: ExtraSamples: 0 unspecified, 1 associated, 2 unassociated alpha.
        order: "<" or ">".
        compression: "none", "deflate", "packbits", or "predictor": deflate of differences.
        colors: Palette ``[2**bits, 3]``, 16 bits per value.
        backwards: FillOrder 2: in each stored byte, the lowest bit comes first.
        tags: More tags: number to (B, H, I as `struct` has them, or II for fractions of two numbers; values).
    """
    height, width, count = samples.shape
    planes = [samples[..., n : n + 1] for n in range(count)] if planar else [samples]
    strips = [_compressed(_packed(_differences(plane, compression), bits, order), compression) for plane in planes]
    strips = [strip.translate(_BACKWARDS) if backwards else strip for strip in strips]
    form = {"i": _SIGNED, "f": _FLOAT}.get(samples.dtype.kind, 1)
    entries = {
        _WIDTH: ("H", [width]), _HEIGHT: ("H", [height]), _BITS: ("H", [bits] * count),
        _COMPRESSION: ("H", [{"none": 1, "packbits": 32773}.get(compression, 8)]), _PHOTOMETRIC: ("H", [photometric]),
        _SAMPLES: ("H", [count]), _ROWS: ("H", [height]), _PLANAR: ("H", [2 if planar else 1]),
        _FORMAT: ("H", [form] * count), _OFFSETS: ("I", [0] * len(strips)), _COUNTS: ("I", [len(each) for each in strips]),
    }  # fmt: skip
    entries |= {_FILL_ORDER: ("H", [2])} if backwards else {}
    entries |= {_EXTRA: ("H", list(extra))} if extra else {}
    entries |= {_PREDICTOR: ("H", [2])} if compression == "predictor" else {}
    entries |= {_COLORS: ("H", colors.T.ravel().tolist())} if colors is not None else {}
    return _file(entries | (tags or {}), strips, order)


def _file(entries: dict[int, tuple[str, list[int]]], strips: list[bytes], order: str) -> bytes:
    """Header, directory, the values that do not fit into it, strips."""
    place = 8 + 2 + 12 * len(entries) + 4
    sizes = {tag: struct.calcsize(kind[0]) * len(values) for tag, (kind, values) in entries.items()}
    first = place + sum(size + size % 2 for size in sizes.values() if size > 4)
    entries[_OFFSETS] = ("I", [first + sum(map(len, strips[:n])) for n in range(len(strips))])
    directory, rest = struct.pack(order + "H", len(entries)), b""
    for tag, (kind, values) in sorted(entries.items()):
        data = struct.pack(order + kind[0] * len(values), *values)
        number = {"B": 1, "H": 3, "I": 4, "II": 5}[kind]
        directory += struct.pack(order + "HHI", tag, number, len(values) // len(kind))
        directory += data.ljust(4, b"\0") if len(data) <= 4 else struct.pack(order + "I", place + len(rest))
        rest += data + bytes(len(data) % 2) if len(data) > 4 else b""
    start = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8)
    return start + directory + bytes(4) + rest + b"".join(strips)


def _differences(plane: np.ndarray, compression: str) -> np.ndarray:
    """Horizontal differencing, modulo the type."""
    if compression != "predictor":
        return plane
    return np.concatenate([plane[:, :1], plane[:, 1:] - plane[:, :-1]], axis=1)


def _packed(plane: np.ndarray, bits: int, order: str) -> bytes:
    rows = plane.reshape(len(plane), -1)
    if bits % 8 == 0:
        return rows.astype(rows.dtype.newbyteorder(order)).tobytes()
    each = rows[..., None] >> np.arange(bits - 1, -1, -1) & 1
    return np.packbits(each.reshape(len(rows), -1).astype(bool), axis=1).tobytes()


def _compressed(data: bytes, compression: str) -> bytes:
    if compression == "packbits":  # runs of one byte and literal bytes
        return b"".join(
            bytes([n - 1]) + data[i : i + n] for i in range(0, len(data), 128) if (n := len(data[i : i + 128]))
        )
    return data if compression == "none" else zlib.compress(data)


def color(samples: np.ndarray, bits: int, photometric: int, extra: tuple[int, ...], colors: np.ndarray) -> np.ndarray:
    """RGB in [0, 1] ``[H, W, 3]`` of stored unsigned values ``[H, W, S]``, by the formulas of TIFF 6.0.

    Associated alpha is divided out; any other is dropped. L*a*b* is relative to D50 and adapted to sRGB's white (Bradford).
    """
    top, count = 2**bits - 1, COLOR_SAMPLES[photometric]
    share = samples[..., :count] / top
    if extra and extra[0] == 1:
        alpha = samples[..., count : count + 1] / top
        share = np.where(alpha > 0, share / np.maximum(alpha, 1e-9), share)
    match photometric:
        case 0:
            rgb = 1 - share.repeat(3, axis=2)
        case 1:
            rgb = share.repeat(3, axis=2)
        case 3:
            rgb = colors[samples[..., 0]] / 65535
        case 5:
            rgb = (1 - share[..., :3]) * (1 - share[..., 3:])
        case 6:
            middle = (top + 1) / 2 / top
            y, cb, cr = np.moveaxis(share - [0, middle, middle], 2, 0)
            r, b = y + 1.402 * cr, y + 1.772 * cb
            rgb = np.stack([r, (y - 0.299 * r - 0.114 * b) / 0.587, b], axis=2)
        case 8 | 9 | 10:
            rgb = lab_color(lab_values(samples[..., :3], bits, photometric))
        case _:
            rgb = share
    return rgb.clip(0, 1)


def lab_values(samples: np.ndarray, bits: int, photometric: int) -> np.ndarray:
    """L*, a* and b* of stored values."""
    top, unit = 2**bits - 1, 2.0 ** (bits - 8)
    stored = samples.astype(np.float64)
    if photometric == CIELAB:  # a and b are signed
        a, b = np.moveaxis(np.where(stored >= 2 ** (bits - 1), stored - 2**bits, stored), 2, 0)[1:] / unit
        return np.stack([stored[..., 0] * 100 / top, a, b], axis=2)
    if photometric == ICCLAB:  # the encoding of ICC version 2: 16 bits of L* end at 0xFF00
        a, b = np.moveaxis(stored, 2, 0)[1:] / unit - 128
        return np.stack([stored[..., 0] * 100 / (top if bits == 8 else 0xFF00), a, b], axis=2)
    a, b = stored[..., 1] * 170 / top - 85, stored[..., 2] * 200 / top - 75  # ITU-T T.42
    return np.stack([stored[..., 0] * 100 / top, a, b], axis=2)


def lab_color(lab: np.ndarray) -> np.ndarray:
    """From CIE L*a*b* (D50) to sRGB."""
    y = (lab[..., 0] + 16) / 116
    roots = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=2)
    xyz = np.where(roots > 6 / 29, roots**3, (roots - 4 / 29) * 3 * (6 / 29) ** 2) * [0.96422, 1.0, 0.82521]
    adapted = [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
    linear = (xyz @ np.transpose(adapted)).clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
