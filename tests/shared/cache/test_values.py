"""What lies in Redis opens only whole, under its own key."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.cache.serialization import CorruptValue, CountedResult, CountedResultCodec, seal, unseal
from tests.shared.cache.support import TextCodec

expiries = st.integers(0, 2**32 - 1)


@given(st.binary(), st.binary(), expiries)
def test_what_is_sealed_opens(key: bytes, payload: bytes, expires_at: int) -> None:
    """With its payload and its expiry."""
    assert unseal(key, seal(key, payload, expires_at)) == (payload, expires_at)


@given(st.data(), st.binary(max_size=40), expiries)
def test_a_value_that_was_changed_anywhere_does_not_open(data: st.DataObject, payload: bytes, expires_at: int) -> None:
    """One bit, in any byte; cut anywhere; with anything appended."""
    sealed = seal(b"k", payload, expires_at)
    at = data.draw(st.integers(0, len(sealed) - 1))
    flipped = bytearray(sealed)
    flipped[at] ^= 1 << data.draw(st.integers(0, 7))
    for wrong in (bytes(flipped), sealed[:at], sealed + b"\0"):
        with pytest.raises(CorruptValue):
            unseal(b"k", wrong)


@given(st.binary(), st.binary(), st.binary())
def test_a_value_does_not_open_under_another_key(key: bytes, other: bytes, payload: bytes) -> None:
    """So that answers in a wrong order, or a mixed-up Redis, serve nobody another's value."""
    if key != other:
        with pytest.raises(CorruptValue):
            unseal(other, seal(key, payload, 1))


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_corrupt(junk: bytes) -> None:
    """Nothing else is ever raised over what lies in Redis."""
    for decode in (
        CountedResultCodec(TextCodec()).decode,
        lambda data: unseal(b"k", data),
    ):
        with suppress(CorruptValue):
            decode(junk)


@given(st.integers(0, 2**31 - 1), st.text(), st.booleans())
def test_a_result_comes_back_with_its_count(tokens: int, text: str, cut: bool) -> None:
    """And with whether its text was cut, whatever writes the result itself."""
    codec = CountedResultCodec(TextCodec())
    assert codec.decode(codec.encode(CountedResult(text, tokens, cut))) == CountedResult(text, tokens, cut)
