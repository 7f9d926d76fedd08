"""Damaged files: bytes changed, removed, inserted and copied, and numbers replaced by absurd ones."""

import struct
from collections.abc import Callable, Sequence

from hypothesis import strategies as st

NUMBERS = [struct.pack(form, value) for form in ("<H", ">H") for value in (0, 1, 0x7FFF, 0x8000, 0xFFFF)]
NUMBERS += [struct.pack(form, value) for form in ("<I", ">I") for value in (0, 1, 60_000, 2**31 - 1, 2**31, 2**32 - 1)]
NUMBERS += [
    struct.pack(form, value) for form in ("<Q", ">Q") for value in (0, 2**31, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
]
NUMBERS += [bytes([value]) for value in (0, 1, 8, 9, 10, 13, 32, 34, 46, 47, 0x7F, 0x80, 0xFF)]


@st.composite
def damaged(draw: st.DrawFn, files: Sequence[bytes], repair: Callable[[bytes], bytes] = bytes) -> bytes:
    """One of the files with one to six changes, most of them near its start or end, where headers and footers are.

    ``repair`` then corrects checksums, so that the damage reaches the code behind them.
    """
    data = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3, 6]))):
        place = draw(
            st.one_of(
                st.integers(0, min(300, len(data))),
                st.integers(0, len(data)),
                st.integers(max(0, len(data) - 300), len(data)),
            )
        )
        length = draw(st.integers(1, 40))
        match draw(
            st.sampled_from(["number", "number", "bit", "byte", "remove", "truncate", "insert", "repeat", "copy"])
        ):
            case "number":
                number = draw(st.sampled_from(NUMBERS))
                data[place : place + len(number)] = number
            case "bit" if place < len(data):
                data[place] ^= 1 << draw(st.integers(0, 7))
            case "byte":
                data[place : place + 1] = bytes([draw(st.integers(0, 255))])
            case "remove":
                del data[place : place + length]
            case "truncate":
                del data[place:]
            case "insert":
                data[place:place] = draw(st.binary(max_size=length))
            case "repeat":
                data[place:place] = data[place : place + length] * draw(st.sampled_from([1, 2, 50]))
            case "copy":
                other = draw(st.sampled_from(files))
                start = draw(st.integers(0, len(other)))
                data[place : place + length] = other[start : start + length]
    return repair(bytes(data))
