"""Strict reading of request bodies."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.errors import InvalidJson, UnsupportedMedia
from onecard.web.request_parsing import clean_request_id, parse_json, require_json_type

sane_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | sane_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(sane_text, inner, max_size=4),
    max_leaves=20,
)


@given(json_values, st.booleans())
def test_sane_json_is_read_as_the_standard_library_reads_it(value: object, ascii_only: bool) -> None:
    """Every value without NUL and surrogates comes back, escaped or not."""
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(st.binary())
def test_no_bytes_do_more_than_be_refused(body: bytes) -> None:
    """Arbitrary bytes are read or refused; nothing else is raised."""
    with contextlib.suppress(InvalidJson):
        parse_json(body)


@given(before=sane_text, backslashes=st.integers(0, 5))
def test_an_escaped_nul_is_refused_and_an_escaped_backslash_is_not(before: str, backslashes: int) -> None:
    r"""`\u0000` is a NUL after an even number of backslashes, and the text `u0000` after an odd one."""
    body = b'"' + json.dumps(before).encode()[1:-1] + b"\\\\" * backslashes
    with pytest.raises(InvalidJson, match="NUL"):
        parse_json(body + b'\\u0000"')
    assert parse_json(body + b'\\\\u0000"') == before + "\\" * backslashes + "\\u0000"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"a": NaN}', b'"\\ud800"', b'"\xff"', b"[" * 100_000, b'"\x00"', b"{} {}", b"'a'"],
    ids=["empty", "open", "nan", "lone surrogate", "not utf-8", "nesting", "raw nul", "two values", "quotes"],
)
def test_bad_bodies_are_refused_without_being_repeated(body: bytes) -> None:
    """A refused body is named by its fault's position."""
    with pytest.raises(InvalidJson, match=r"line \d+, column \d+"):
        parse_json(body)


@pytest.mark.parametrize(
    "value", [b"application/json", b"Application/JSON; charset=utf-8", b"application/problem+json"]
)
def test_json_types_are_accepted(value: bytes) -> None:
    """Parameters and case do not matter."""
    require_json_type(value)


@pytest.mark.parametrize("value", [None, b"", b"text/plain", b"application/x-www-form-urlencoded", b"json"])
def test_other_types_are_refused(value: bytes | None) -> None:
    """curl's default for -d is among them."""
    with pytest.raises(UnsupportedMedia):
        require_json_type(value)


@given(st.binary(max_size=200))
def test_a_request_id_is_safe_or_replaced(value: bytes) -> None:
    """What is kept has no line break, no space and at most 128 characters."""
    kept = clean_request_id(value)
    assert kept is None or (0 < len(kept) <= 128 and kept.isascii() and not set(kept) & set(" \r\n\t\"'{}"))
