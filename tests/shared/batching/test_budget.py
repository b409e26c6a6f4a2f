"""The token budget, the throughput estimate, and who is let in."""

from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from onecard.batching.admission import (
    SAFETY_FACTOR,
    WAITED_SAFETY_FACTOR,
    ThroughputEstimate,
    excess_wait_seconds,
    execution_seconds,
)
from onecard.batching.batch_limit import RECOVERY_BATCHES, AdaptiveBatchLimit, BatchLimit


@given(st.integers(1, 100_000), st.integers(1, 100_000), st.integers(1, 20))
def test_the_budget_shrinks_under_trouble_and_recovers(most: int, ran: int, times: int) -> None:
    """Halved at each failure, never below one token; after enough good batches it is what it was."""
    budget = AdaptiveBatchLimit(BatchLimit(64, most))
    for _ in range(times):
        before = budget.limit.tokens
        budget.record_out_of_memory(min(ran, before))
        assert 1 <= budget.limit.tokens <= max(1, before // 2)
    for _ in range(RECOVERY_BATCHES * 18):
        budget.record_success()
    assert budget.limit == BatchLimit(64, most)


def test_one_bad_batch_delays_recovery() -> None:
    """Only batches in a row count."""
    budget = AdaptiveBatchLimit(BatchLimit(64, 1024))
    budget.record_out_of_memory(1024)
    for _ in range(RECOVERY_BATCHES - 1):
        budget.record_success()
    budget.record_out_of_memory(512)
    budget.record_success()
    assert budget.limit.tokens == 256


@given(st.floats(1, 1e6), st.lists(st.tuples(st.integers(1, 10_000), st.floats(0.001, 10)), max_size=200))
def test_throughput_stays_between_what_was_seen(first: float, batches: list[tuple[int, float]]) -> None:
    """A mean: within the slowest and the fastest batch."""
    throughput = ThroughputEstimate(first)
    for tokens, seconds in batches:
        throughput.observe(tokens, seconds)
    seen = [first, *(tokens / seconds for tokens, seconds in batches)]
    assert min(seen) * 0.999 <= throughput.tokens_per_second <= max(max(seen), 1) * 1.001


def test_after_a_standstill_of_an_hour_an_idle_device_takes_a_large_request() -> None:
    """5,000 tokens at 1,000 a second, within the five minutes of a bulk request."""
    throughput = ThroughputEstimate(1000)
    for seconds in (*[1.0] * 30, 3600.0):
        throughput.observe(1000, seconds)
    assert execution_seconds(5000, throughput.tokens_per_second) < 300


@given(st.integers(1, 10_000), st.floats(10, 1e6), st.integers(0, 100), st.floats(0, 1e6))
def test_one_standstill_refuses_nothing_for_good(tokens: int, rate: float, batches: int, standstill: float) -> None:
    """A batch that was under way while the machine stood still makes the estimate ten times lower at most, and it
    recovers with the next ones."""
    throughput = ThroughputEstimate(rate)
    for _ in range(batches):
        throughput.observe(tokens, tokens / rate)
    throughput.observe(tokens, standstill)
    assert throughput.tokens_per_second >= rate / 10 * 0.999
    for _ in range(50):
        throughput.observe(tokens, tokens / rate)
    assert throughput.tokens_per_second >= rate * 0.9


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.floats(1, 10**6), st.floats(0.1, 1000), st.booleans())
def test_what_is_refused_would_be_accepted_after_the_wait(
    ahead: int, own: int, rate: float, patience: float, has_waited: bool
) -> None:
    """Retry-After is right: once the device has worked for so long, the same request is let in."""
    excess = partial(
        excess_wait_seconds, own_tokens=own, tokens_per_second=rate, timeout_seconds=patience, has_waited=has_waited
    )
    over = excess(ahead_tokens=ahead)
    left = max(0, ahead - int(over * rate + 1))
    later = excess(ahead_tokens=left)
    assert over >= 0
    assert later < 1e-6
    if over == 0 and ahead:
        assert ahead / rate * (WAITED_SAFETY_FACTOR if has_waited else SAFETY_FACTOR) <= patience * 1.001
        assert (ahead + own) / rate <= patience * 1.001


@given(st.integers(1, 10**6), st.floats(1, 10**6), st.floats(0.1, 1000))
def test_who_has_waited_finds_room_that_newcomers_cannot_take(own: int, rate: float, patience: float) -> None:
    """A quarter of the time limit, unless its own texts need it."""
    excess = partial(excess_wait_seconds, own_tokens=own, tokens_per_second=rate, timeout_seconds=patience)
    ahead = int(rate * patience / SAFETY_FACTOR) + 2
    assert excess(ahead_tokens=ahead) > 0
    if (2 * ahead + own) / rate < patience:
        assert excess(ahead_tokens=ahead, has_waited=True) == 0


@given(st.integers(1, 10**6), st.floats(1, 10**6))
def test_a_large_request_is_not_shut_out_by_small_ones(own: int, rate: float) -> None:
    """It may use all of its time limit for itself, while little is ahead of it."""
    patience = own / rate * 1.5
    ahead = int(rate * patience / SAFETY_FACTOR / 2)
    assert (
        excess_wait_seconds(ahead_tokens=ahead, own_tokens=own, tokens_per_second=rate, timeout_seconds=patience) == 0
    )


@given(st.integers(1, 10**9), st.floats(0.01, 1))
def test_an_idle_device_tells_nobody_to_come_back_later(own: int, patience: float) -> None:
    """Nothing would be better then."""
    assert excess_wait_seconds(ahead_tokens=0, own_tokens=own, tokens_per_second=1, timeout_seconds=patience) == 0
