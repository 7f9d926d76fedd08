"""Counter-based random numbers: Philox4x64-10, vectorized.

A generator with state has to be carried, saved and restored. A counter-based one (Salmon et al., "Parallel random
numbers: as easy as 1, 2, 3", SC 2011) is a pure function that maps a counter and a key to four random words, anywhere
and in any order. numpy has the same cipher, but needs one object per stream: 13 microseconds each, too slow for small
images. This one takes a whole array of counters. Its words are numpy's: ``philox(counter, key)`` equals
``numpy.random.Philox(counter=counter - 1, key=key).random_raw(4)`` (numpy increments the counter before it starts).
"""

import numpy as np
from jaxtyping import Float, UInt64

_ROUNDS = 10
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)  # constants of the cipher: section 4 and its reference code
_KEY_STEPS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)  # golden ratio and sqrt(3) - 1, in 64 bits
_LOW_HALF = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_WORD = 2**64


def philox(counter: UInt64[np.ndarray, "4 ..."], key: tuple[int, int]) -> UInt64[np.ndarray, "4 ..."]:
    """Four random 64-bit words for each counter.

    Args:
        counter: The four words of each counter, lowest first.
        key: Two words, taken modulo 2**64, so that -1 is a valid key.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _product(c0, _MULTIPLIERS[0])
        high1, low1 = _product(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ np.uint64(k0 % _WORD), low1, high0 ^ c3 ^ np.uint64(k1 % _WORD), low0
        k0, k1 = k0 + _KEY_STEPS[0], k1 + _KEY_STEPS[1]
    return np.stack([c0, c1, c2, c3])


def uniform(counter: UInt64[np.ndarray, "4 ..."], key: tuple[int, int]) -> Float[np.ndarray, "4 ..."]:
    """Four float64 numbers in [0, 1) for each counter, from the upper 53 bits of each word, as numpy makes them."""
    return (philox(counter, key) >> np.uint64(11)) * 2.0**-53


def _product(
    words: UInt64[np.ndarray, "..."], factor: int
) -> tuple[UInt64[np.ndarray, "..."], UInt64[np.ndarray, "..."]]:
    """Upper and lower 64 bits of the 128-bit product, by schoolbook multiplication of 32-bit halves."""
    factor_low, factor_high = np.uint64(factor & 0xFFFFFFFF), np.uint64(factor >> 32)
    low, high = words & _LOW_HALF, words >> _HALF
    crossed = low * factor_high
    middle = ((low * factor_low) >> _HALF) + (crossed & _LOW_HALF) + high * factor_low  # stays below 2**64
    return high * factor_high + (crossed >> _HALF) + (middle >> _HALF), words * np.uint64(factor)
