"""How an answer is kept."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.answers.cached_response import CachedResponse, CachedResponseCodec
from onecard.cache.serialization import CorruptValue

codec = CachedResponseCodec()


@given(st.text(st.characters(max_codepoint=127)), st.binary())
def test_an_answer_comes_back_as_it_was(content_type: str, body: bytes) -> None:
    """Byte for byte."""
    assert codec.decode(codec.encode(CachedResponse(content_type, body))) == CachedResponse(content_type, body)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_corrupt(junk: bytes) -> None:
    """Nothing else is ever raised over what lies in Redis."""
    with suppress(CorruptValue):
        codec.decode(junk)


@pytest.mark.parametrize("content_type", ["text/ünsinn", "x" * 70_000])
def test_a_content_type_that_does_not_fit_is_not_kept(content_type: str) -> None:
    """The store counts it as dropped."""
    with pytest.raises(ValueError, match=r"ascii|65,535"):
        codec.encode(CachedResponse(content_type, b""))
