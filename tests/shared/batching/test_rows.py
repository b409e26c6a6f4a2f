"""How texts lie in rows."""

from hypothesis import given
from hypothesis import strategies as st

from onecard.batching.sequence_packing import pack

lengths_ = st.lists(st.integers(1, 512), min_size=1, max_size=128)


@given(lengths_, st.integers(1, 256))
def test_every_text_lies_in_exactly_one_row_and_fits(lengths: list[int], row_tokens: int) -> None:
    """Nothing is lost, nothing overlaps, no row is wider than said, none is empty."""
    rows = pack(lengths, row_tokens=row_tokens)
    assert sorted(index for row in rows.rows for index in row) == list(range(len(lengths)))
    fills = [sum(lengths[index] for index in row) for row in rows.rows]
    assert max(fills) == rows.width
    assert min(fills) > 0


@given(lengths_)
def test_never_more_padding_than_one_text_a_row(lengths: list[int]) -> None:
    """The area is at most that of plain padding."""
    assert sum(lengths) <= pack(lengths).padded_tokens <= len(lengths) * max(lengths)


def test_reviews_leave_little_empty() -> None:
    """32 texts as reviews are: plain padding nearly doubles the work, rows add 7 % at most."""
    lengths = [4, 6, 7, 9, 9, 10, 11, 12, 12, 13, 14, 15, 15, 16, 17, 17, 18, 18, 19, 19, 20, 21, 21, 22, 23, 24, 25]
    lengths += [26, 28, 30, 33, 33]
    assert len(lengths) * max(lengths) > 1.8 * sum(lengths)
    assert pack(lengths).padded_tokens <= 1.07 * sum(lengths)


def test_one_text_is_one_row() -> None:
    """As the plain model would read it."""
    assert pack([17]).rows == ((0,),)
    assert pack([17]).width == 17
