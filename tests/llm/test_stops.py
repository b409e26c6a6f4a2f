"""Stop strings in a text that arrives in pieces, over all ways of cutting it."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from llm_service.fallback.stop_strings import StopScanner

TEXTS = st.text(alphabet="ab\n가", max_size=24)
STOPS = st.lists(st.text(alphabet="ab\n가", min_size=1, max_size=4), max_size=3)


@given(text=TEXTS, stops=STOPS, cuts=st.lists(st.integers(0, 24), max_size=8))
def test_what_comes_out_is_the_text_before_the_first_stop(text: str, stops: list[str], cuts: list[int]) -> None:
    """However the text is cut into pieces, exactly what stands before the first stop string comes out."""
    scanner = StopScanner(stops)
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    out, seen = "", ""
    for start, end in itertools.pairwise(bounds):
        if scanner.stopped:
            break
        seen = text[:end]
        out += scanner.feed(text[start:end])
        assert not any(stop in out for stop in stops)
    found = [at for stop in stops if (at := seen.find(stop)) >= 0]
    assert scanner.stopped == bool(found)
    out += "" if scanner.stopped else scanner.finish()
    assert out == (seen[: min(found)] if found else text)


@given(text=TEXTS)
def test_without_stops_every_piece_goes_through_at_once(text: str) -> None:
    """Nothing is held back for nothing."""
    scanner = StopScanner([])
    assert [scanner.feed(letter) for letter in text] == list(text)
