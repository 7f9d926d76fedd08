import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.data.augmentation.counter_rng import philox, uniform

WORD = st.integers(0, 2**64 - 1)


def as_words(number: int, count: int) -> np.ndarray:
    return np.array([number >> 64 * place & 2**64 - 1 for place in range(count)], dtype=np.uint64)


@given(counter=st.integers(1, 2**256 - 1), key=st.tuples(WORD, WORD))
def test_words_equal_numpys_philox(counter, key):
    theirs = np.random.Philox(counter=as_words(counter - 1, 4), key=np.array(key, dtype=np.uint64)).random_raw(4)
    assert (philox(as_words(counter, 4)[:, None], key)[:, 0] == theirs).all()


@given(counter=st.integers(1, 2**256 - 1), key=st.tuples(WORD, WORD))
def test_uniform_numbers_equal_numpys_generator(counter, key):
    stream = np.random.Philox(counter=as_words(counter - 1, 4), key=np.array(key, dtype=np.uint64))
    assert (uniform(as_words(counter, 4)[:, None], key)[:, 0] == np.random.Generator(stream).random(4)).all()


def test_many_counters_at_once_give_the_same_as_each_alone():
    counters = np.random.default_rng(0).integers(0, 2**64, size=(4, 5, 3), dtype=np.uint64, endpoint=False)
    together = philox(counters, (7, 11))
    assert together.shape == (4, 5, 3)
    for place in np.ndindex(5, 3):
        assert (philox(counters[:, *place, None], (7, 11))[:, 0] == together[:, *place]).all()


@pytest.mark.parametrize("below", [-1, -(2**64)])
def test_a_negative_key_is_taken_modulo_two_to_the_64(below):
    counter = np.ones((4, 1), dtype=np.uint64)
    assert (philox(counter, (0, below)) == philox(counter, (0, below % 2**64))).all()
