"""server-timing, written and read."""

from hypothesis import given
from hypothesis import strategies as st

from onecard.web.server_timing import Timing, parse, serialize

names = st.from_regex(r"[A-Za-z][\w-]{0,10}", fullmatch=True).filter(str.isascii)
descriptions = st.none() | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
durations = st.integers(0, 10**7).map(lambda hundredths: hundredths / 100)


@given(st.dictionaries(names, st.builds(Timing, durations, descriptions), max_size=5))
def test_what_is_written_is_read(timings: dict[str, Timing]) -> None:
    """Whatever punctuation a description holds."""
    assert parse(serialize(timings)) == timings


def test_what_others_write_is_read() -> None:
    """Parameters in any order and case, spaces, entries without a duration."""
    header = 'miss, db ; DUR=53.2;desc="a, \\"b\\"; c" ,app;desc=x;dur=1, cache;desc="y", odd;dur=soon'
    assert parse(header) == {"db": Timing(53.2, 'a, "b"; c'), "app": Timing(1, "x")}


@given(st.text(st.sampled_from('a;,="\\ 1.'), max_size=40))
def test_nothing_in_a_header_raises(header: str) -> None:
    """It comes from outside."""
    assert isinstance(parse(header), dict)
