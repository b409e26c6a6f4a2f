"""How a service tells which model it has."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.cache.keys import Keyspace, ServingConfig, fingerprint
from onecard.models import identity
from onecard.models.identity import ModelIdentity

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
prints = st.text("0123456789abcdef", min_size=16, max_size=16)


@given(st.builds(ModelIdentity, names, names, prints))
def test_what_is_told_is_read_again_and_fits_into_a_header(told: ModelIdentity) -> None:
    """Whatever the name is: separators, line breaks and Korean included."""
    header = told.header_value()
    assert header.isascii()
    assert header.isprintable()
    assert identity.parse_header(header) == told


@pytest.mark.parametrize("other", [None, "", "a", "a@b", "a@b:", "a@b:0123", f"a@b:{'g' * 16}", f" a@b:{'0' * 16}"])
def test_anything_else_is_nobody(other: str | None) -> None:
    """A header that another program uses is not taken for ours."""
    assert identity.parse_header(other) is None


def test_a_fingerprint_that_was_told_makes_the_keys_of_its_facts() -> None:
    """Whoever knows only the fingerprint names the same values."""
    facts = ServingConfig("t", "fp16", "e", 128, "right")
    told = Keyspace("chat", "a/b", "r1", fingerprint(facts))
    assert told.for_json({}) == Keyspace("chat", "a/b", "r1", facts).for_json({})
