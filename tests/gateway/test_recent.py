"""Percentiles of the last minutes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry.percentiles import (
    MIN_SECONDS,
    RELATIVE_ERROR,
    SLOT_SECONDS,
    WINDOW_SECONDS,
    DurationSummary,
    RecentDurations,
)

durations = st.floats(MIN_SECONDS, 3600)


@given(st.lists(durations, min_size=1, max_size=300))
def test_percentiles_are_the_exact_ones_within_the_error(seconds: list[float]) -> None:
    """Of a few requests as of many: the smallest duration that so many percent do not exceed."""
    recent = RecentDurations(lambda: 0.0)
    for one in seconds:
        recent.add(one)
    summary = recent.summary()
    assert summary.count == len(seconds)
    for share, found in [(0.5, summary.p50_ms), (0.95, summary.p95_ms), (0.99, summary.p99_ms)]:
        exact_ms = sorted(seconds)[math.ceil(share * len(seconds)) - 1] * 1000
        assert found == pytest.approx(exact_ms, rel=RELATIVE_ERROR)


@given(st.lists(st.tuples(st.floats(0, 2 * WINDOW_SECONDS), durations), max_size=100))
def test_what_is_old_is_forgotten_and_nothing_else(notes: list[tuple[float, float]]) -> None:
    """The window is at most a slot shorter than it says, however long nothing comes."""
    now = 0.0
    recent = RecentDurations(lambda: now)
    times = []
    for gap, seconds in notes:
        now += gap
        recent.add(seconds)
        times.append(now)
        count = recent.summary().count
        assert sum(time > now - WINDOW_SECONDS + SLOT_SECONDS for time in times) <= count
        assert count <= sum(time > now - WINDOW_SECONDS for time in times)
    now += WINDOW_SECONDS + 1
    assert recent.summary() == DurationSummary(0, None, None, None)


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e-9])
def test_what_is_too_short_to_tell_is_counted(seconds: float) -> None:
    """A clock may stand still between two looks at it."""
    recent = RecentDurations(lambda: 0.0)
    recent.add(seconds)
    assert recent.summary() == DurationSummary(1, *[MIN_SECONDS * 1000] * 3)
