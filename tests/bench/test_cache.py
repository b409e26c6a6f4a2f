"""The cache's benchmark: its workload and its report."""

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.cache import KINDS, as_json, as_markdown, repeated, request, zipf
from bench.measurements import Measurement
from tests.bench.test_report import HEAD, even_tables


@given(count=st.integers(1, 200), distinct=st.integers(1, 50), exponent=st.floats(0, 3), seed=st.text())
def test_draws_are_in_range_and_repeatable(count: int, distinct: int, exponent: float, seed: str) -> None:
    """Every draw is one of the texts, and the seed decides them all."""
    draws = zipf(count, distinct, exponent, seed=seed)
    assert len(draws) == count
    assert set(draws) <= set(range(distinct))
    assert draws == zipf(count, distinct, exponent, seed=seed)


def test_the_first_is_drawn_as_often_as_zipf_says() -> None:
    """With exponent 1 over 1,000, n is drawn 1/n times as often as the first, which gets 1 of 7.49 draws."""
    counts = Counter(zipf(100_000, 1_000, 1.0, seed="often"))
    assert counts[0] == pytest.approx(100_000 / 7.4855, rel=0.05)
    assert counts[9] == pytest.approx(counts[0] / 10, rel=0.15)


def test_what_is_repeated_can_be_saved() -> None:
    """Of five draws of two things, three are repetitions."""
    assert repeated([1, 1, 2, 1, 2]) == 0.6


@pytest.mark.parametrize("kind", KINDS)
def test_requests_are_for_their_route(kind: str) -> None:
    """A whole HTTP request with its text; two texts give two requests."""
    head, _, body = request(kind, "맛있어요").partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head
    assert "맛있어요" in body.decode()
    assert json.loads(body).get("stream", False) is (kind == "stream")
    assert request(kind, "a") != request(kind, "b")


def block(requests: int, seconds: float, computed: float, **states: int) -> dict[str, Any]:
    figures = {"requests": requests, "seconds": seconds, "computed": computed, "p50_ms": 1.0, "p99_ms": 2.0}
    return {**figures, "x_cache": states, "errors": {}}


def document(*, with_workload: bool = True) -> dict[str, Any]:
    figures: dict[str, float | None] = {
        "p50_ms": 1.0, "p99_ms": 2.0, "share_as_meant": 1.0, "errors": 0, "single_p50_ms": 0.5, "per_second": 2000.0,
    }  # fmt: skip
    slow = {**figures, "single_p50_ms": 15.0, "per_second": 50.0}
    visits = [Measurement("hit", "embedding", number, figures) for number in range(3)]
    visits += [Measurement("miss", "embedding", number, slow) for number in range(3)]
    cached = [block(100, 1.0, 60, hit=40, miss=60), block(100, 0.5, 20, hit=75, miss=20, coalesced=5)]
    uncached = [block(100, 2.0, 100, bypass=100), block(100, 2.0, 100, bypass=100)]
    pairs = [{"cached": one, "uncached": other} for one, other in zip(cached, uncached, strict=True)]
    return as_json(HEAD, visits, pairs if with_workload else [], [0, 0, 1, 0])


def test_what_the_cache_saves() -> None:
    """Model calls by the encoders' own counters; time and throughput over all blocks."""
    made = document()
    assert made["hit_over_miss"] == {"embedding": {"latency": 30.0, "throughput": 40.0}}
    found = made["workload"]
    assert (found["model_calls_saved"], found["time_saved"]) == (0.6, 0.625)
    assert found["times_the_throughput"] == round(4 / 1.5, 3)
    assert found["x_cache"] == {"hit": 115, "miss": 80, "coalesced": 5}
    assert found["whole_workload_repeated"] == 0.5


@pytest.mark.parametrize("with_workload", [True, False])
def test_the_report_is_well_formed(with_workload: bool) -> None:
    """Also without the workload."""
    made = document(with_workload=with_workload)
    assert json.loads(json.dumps(made))["medians"]
    even_tables(as_markdown(made))
