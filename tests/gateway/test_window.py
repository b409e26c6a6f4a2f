"""The sliding minute and its decisions, by a clock that tests move."""

import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.limits.rate_limit import (
    Decision,
    RateLimit,
    Settlement,
    Usage,
    decide,
    format_duration,
    rate_limit_headers,
    rate_limited,
)
from gateway.limits.sliding_window import CELL_MS, MINUTE_MS, Window

moments = st.integers(0, 10 * MINUTE_MS)
amounts = st.integers(1, 10_000)
NO_USE = Decision(0, 0, 0, 0, 0, 0, 0)


@st.composite
def windows(draw: st.DrawFn) -> tuple[Window, int]:
    """Use at some moments, and the moment of the last."""
    window, now = Window(), draw(moments)
    for gap, amount in draw(st.lists(st.tuples(st.integers(0, MINUTE_MS), amounts), max_size=20)):
        now += gap
        window = window.at(now).plus(now, amount)
    return window, now


@given(windows(), st.integers(0, 2 * MINUTE_MS), st.integers(0, 2 * MINUTE_MS))
def test_looking_often_changes_nothing(use: tuple[Window, int], first: int, second: int) -> None:
    """What counts at a moment does not depend on who looked before; it never grows by itself, and ends."""
    window, now = use
    once = window.at(now + first + second)
    assert once == window.at(now + first).at(now + first + second)
    assert once.used <= window.used
    assert window.at(now + MINUTE_MS) == Window()


@given(windows(), st.integers(0, 10_000))
def test_the_wait_that_is_told_is_as_long_as_needed(use: tuple[Window, int], most: int) -> None:
    """After it there is room; a moment before there is none."""
    window, now = use
    wait = window.wait_ms(now, most)
    assert window.at(now + wait).used <= most
    assert (wait == 0) == (window.used <= most)
    assert wait == 0 or window.at(now + wait - 1).used > most


@given(windows())
def test_a_window_is_a_few_numbers(use: tuple[Window, int]) -> None:
    """However much it is used."""
    assert len(use[0].cells) <= MINUTE_MS / CELL_MS + 1


@given(st.lists(st.integers(0, 5_000), min_size=1, max_size=200), st.integers(1, 20))
def test_no_minute_has_more_requests_than_its_limit(gaps: list[int], most: int) -> None:
    """None of all that begin at any moment."""
    use, now, admitted = Usage(), 10 * MINUTE_MS, []
    for gap in gaps:
        now += gap
        decision, use = decide(use.at(now), RateLimit(requests=most), 0, now)
        if not decision.wait_ms:
            admitted.append(now)
    assert all(late - early >= MINUTE_MS for early, late in zip(admitted, admitted[most:], strict=False))


def polite(quota: RateLimit, minutes: int, tokens: int, answer_ms: list[int], clock_ms: int = 0) -> list[int]:
    """When a caller comes in who asks again and again, and waits for as many seconds as it is told."""
    use, now, admitted, end = Usage(), clock_ms, [], clock_ms + minutes * MINUTE_MS
    while now < end:
        decision, use = decide(use.at(now), quota, tokens, now)
        if decision.wait_ms:
            told = rate_limited(decision, quota).headers
            assert told is not None
            now += 1000 * int(told["retry-after"])
            assert not decide(use.at(now), quota, tokens, now)[0].wait_ms, "who waited as told comes in"
        else:
            admitted.append(now)
            now += answer_ms[len(admitted) % len(answer_ms)]
    return admitted


@given(st.integers(1, 300), st.lists(st.integers(0, 180), min_size=1, max_size=5), st.integers(0, 2 * CELL_MS))
def test_a_polite_caller_gets_close_to_its_whole_limit(most: int, answer_ms: list[int], clock_ms: int) -> None:
    """In requests: at least 60/63 of it in the long run, and never more than it in any minute."""
    admitted = polite(RateLimit(requests=most), 20, 0, answer_ms, clock_ms)
    assert len(admitted) >= 19 * most * 60 / 63
    assert all(late - early >= MINUTE_MS for early, late in zip(admitted, admitted[most:], strict=False))


@given(st.integers(1, 50), st.integers(1, 500))
def test_a_polite_caller_gets_close_to_its_tokens(requests: int, each: int) -> None:
    """The same for a limit of tokens that is so many requests' worth."""
    admitted = polite(RateLimit(tokens=requests * each), 20, each, [100])
    assert len(admitted) >= 19 * requests * 60 / 63


def test_sixty_a_minute_are_sixty_each_minute() -> None:
    """The caller that once got 60, 2, 58 and 7."""
    admitted = polite(RateLimit(requests=60), 10, 0, [20])
    assert Counter(at // MINUTE_MS for at in admitted) == dict.fromkeys(range(10), 60)


def test_requests_that_come_together_are_refused_by_what_they_may_cost() -> None:
    """Forty of 50 tokens and a limit of 1,000: 20 come in, before any of them is answered."""
    use, quota, outcomes = Usage(), RateLimit(tokens=1_000), []
    for _ in range(40):
        decision, use = decide(use, quota, 50, 1_000)
        outcomes.append(decision.outcome)
    assert outcomes == ["admitted"] * 20 + ["out_of_tokens"] * 20


def test_what_may_cost_more_than_the_limit_comes_in_alone() -> None:
    """Else it never would; what it costs is counted in full afterwards."""
    use, quota = Usage(), RateLimit(tokens=100)
    decision, use = decide(use, quota, 5_000, 1_000)
    assert (decision.outcome, decision.tokens_used) == ("admitted", 100)
    use = use.settled(2_000, Settlement(1_000, 400))
    assert decide(use.at(2_000), quota, 1, 2_000)[0].tokens_wait_ms == MINUTE_MS
    assert decide(use.at(61_999), quota, 1, 61_999)[0].outcome == "out_of_tokens"
    assert decide(use.at(62_000), quota, 1, 62_000)[0].outcome == "admitted"


@given(st.integers(0, 1_000), st.integers(0, 1_000), st.integers(0, 2 * MINUTE_MS))
def test_what_was_reserved_is_settled_where_it_was(reserved: int, cost: int, later: int) -> None:
    """Less than was reserved is given back if it still counts, and more counts from when it is known."""
    quota, at = RateLimit(tokens=10_000), 5 * MINUTE_MS
    use = Usage(tokens=Window().plus(at - CELL_MS, 7))
    _, use = decide(use, quota, reserved, at)
    now = at + later
    settled = use.at(now).settled(now, Settlement(at, cost - reserved)).tokens
    before = 7 if later < MINUTE_MS - CELL_MS else 0
    if later < MINUTE_MS:
        assert settled.used == before + cost
    else:
        assert settled.used == max(0, cost - reserved)
    assert all(cell.amount >= 0 for cell in settled.cells)


@given(windows(), st.integers(-(10**7), 10**7))
def test_a_clock_that_jumps_costs_a_minute_at_most(use: tuple[Window, int], jump: int) -> None:
    """Put forward, what was used counts for less long; put back, for a minute from then on, and all of it."""
    window, now = use
    seen = window.at(now + jump)
    assert seen.used <= window.used
    assert jump > 0 or seen.used == window.used
    assert seen.wait_ms(now + jump, 0) <= MINUTE_MS
    assert all(early.last_ms <= late.last_ms for early, late in pairwise(seen.cells))


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "0s"), (17, "17ms"), (999.6, "1s"), (1000, "1s"), (8640, "8.64s"), (60_000, "1m0s"), (90_500, "1m30.5s")],
)
def test_durations_are_written_as_openai_writes_them(milliseconds: float, text: str) -> None:
    """The SDKs' users parse them."""
    assert format_duration(milliseconds) == text


def test_headers_are_for_what_is_limited() -> None:
    """All of it, before and after use; nothing for a key without limits."""
    decision = NO_USE._replace(requests_used=3, requests_reset_ms=60_000, tokens_used=40, tokens_reset_ms=500)
    assert rate_limit_headers(decision, RateLimit()) == {}
    assert rate_limit_headers(decision, RateLimit(requests=10)) == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "7",
        "x-ratelimit-reset-requests": "1m0s",
    }
    assert rate_limit_headers(decision, RateLimit(tokens=100))["x-ratelimit-remaining-tokens"] == "60"
    assert rate_limit_headers(decision, RateLimit(tokens=30))["x-ratelimit-remaining-tokens"] == "0"


def test_the_text_and_the_header_tell_the_same_wait() -> None:
    """Whole seconds, and none too few."""
    for wait_ms in range(1, MINUTE_MS + 1):
        error = rate_limited(NO_USE._replace(requests_wait_ms=wait_ms), RateLimit(requests=5))
        assert error.headers is not None
        assert f" in {error.headers['retry-after']} s," in str(error.detail)


def test_who_lacks_both_is_told_the_longer_wait() -> None:
    """After the shorter one it would be refused once more."""
    draw = random.Random(3)
    for _ in range(100):
        waits = (draw.randrange(1, MINUTE_MS), draw.randrange(1, MINUTE_MS))
        told = rate_limited(
            NO_USE._replace(requests_wait_ms=waits[0], tokens_wait_ms=waits[1]), RateLimit(5, 5)
        ).headers
        assert told is not None
        assert int(told["retry-after"]) * 1000 >= max(waits)
