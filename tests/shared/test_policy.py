"""Packing texts into batches."""

from hypothesis import given
from hypothesis import strategies as st

from onecard.batching.policy import pack

lengths_ = st.lists(st.integers(1, 600), max_size=200)


@given(lengths_, st.integers(1, 64), st.integers(1, 4096))
def test_every_text_is_in_exactly_one_batch(lengths: list[int], max_texts: int, max_tokens: int) -> None:
    """Nothing is lost, nothing is computed twice."""
    batches = pack(lengths, max_texts=max_texts, max_tokens=max_tokens)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))


@given(lengths_, st.integers(1, 64), st.integers(1, 4096))
def test_no_batch_is_over_budget_unless_it_is_one_text(lengths: list[int], max_texts: int, max_tokens: int) -> None:
    """The cost of a batch is its longest text times its number of texts."""
    for batch in pack(lengths, max_texts=max_texts, max_tokens=max_tokens):
        assert len(batch) <= max_texts
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= max_tokens


@given(lengths_)
def test_padding_is_the_least_that_batches_of_this_size_allow(lengths: list[int]) -> None:
    """Sorted by length: no text of a later batch is longer than one of an earlier batch."""
    batches = pack(lengths, max_texts=8, max_tokens=10**9)
    flat = [lengths[index] for batch in batches for index in batch]
    assert flat == sorted(lengths, reverse=True)
