"""Results as the cache keeps them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedding_service.vectors import VectorCodec
from onecard.cache.serialization import CorruptValue
from sentiment_service.probabilities import ProbabilityCodec


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=4, max_size=4))
def test_a_vector_comes_back_bit_by_bit(numbers: list[float]) -> None:
    """In 4 bytes a component, also when it was a row of a larger array."""
    vector = np.array([numbers, numbers], dtype=np.float32).T.copy().T[0]
    payload = VectorCodec(4).encode(vector)
    assert len(payload) == 16
    found = VectorCodec(4).decode(payload)
    assert (found.dtype, found.shape) == (np.float32, (4,))
    assert found.tobytes() == vector.tobytes()


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_probability_comes_back_bit_by_bit(number: float) -> None:
    """In 8 bytes."""
    payload = ProbabilityCodec().encode(number)
    assert len(payload) == 8
    assert ProbabilityCodec().decode(payload).hex() == number.hex()


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_is_not_kept(number: float) -> None:
    """A fault of the device must not live on in the cache."""
    with pytest.raises(ValueError, match="to keep"):
        VectorCodec(2).encode(np.array([0.5, number], dtype=np.float32))
    with pytest.raises(ValueError, match="to keep"):
        ProbabilityCodec().encode(number)


def test_another_length_is_corrupt() -> None:
    """Whoever wrote it."""
    for decode in (VectorCodec(2).decode, ProbabilityCodec().decode):
        with pytest.raises(CorruptValue):
            decode(b"12345")
