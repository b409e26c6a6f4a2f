"""The benchmark of precomputing: what is asked, and its report."""

import json
from typing import Any

from bench.measurements import Measurement
from bench.precompute import __main__ as report
from bench.precompute import measure as requests
from bench.precompute.__main__ import PrecomputeResults
from tests.bench.test_report import HEAD

SAMPLE = [{"review_id": f"r-{number}", "restaurant_id": "a b", "text": "맛있어요"} for number in range(3)]


def body(request: bytes) -> Any:
    return json.loads(request.split(b"\r\n\r\n", 1)[1])


def test_live_requests_are_new_in_every_phase() -> None:
    """None is in the cache, whatever was asked before; the same phase asks the same again."""
    first, second = (requests.live("search", 50, f"round 0, {name}") for name in ("working", "idle"))
    assert len({*first, *second}) == 100
    assert requests.live("search", 50, "round 0, idle") == second


def test_an_edit_changes_a_review_that_is_there() -> None:
    """Its id stays, its text is new."""
    made = [body(one) for one in requests.edits(SAMPLE, 20, "seed")]
    assert {one["review_id"] for one in made} <= {one["review_id"] for one in SAMPLE}
    assert len({one["text"] for one in made}) == 20


def test_what_is_made_ready_is_asked_for() -> None:
    """Three answers a restaurant, its id quoted, and as many searches as the worker keeps ready."""
    made = requests.popular(["a b"])
    assert len(made) == 3 + requests.KNOWN_SEARCHES
    assert made[0].startswith(b"GET /v1/restaurants/a%20b/sentiment HTTP/1.1\r\n")


def results(
    working_ms: float = 10.5,
    ready_ms: float = 5.0,
    errors: float = 0,
    counted: bool = True,
    computed: float = 2.0,
    ready: dict[str, float | None] | None = None,
) -> PrecomputeResults:
    """Two rounds; the second on a machine half as fast."""

    def visit(name: str, number: int, latency: float) -> Measurement:
        latencies = dict.fromkeys(report.FIGURES, latency * (number + 1))
        return Measurement(
            name, "all", number, {**latencies, "requests": 100.0, "errors": errors, "computed_per_second": computed}
        )

    visits = [visit(name, number, ms) for number in (0, 1) for name, ms in (("idle", 10.0), ("working", working_ms))]
    times: dict[str, float | None] = dict.fromkeys(report.FIGURES, ready_ms)
    lay = {**times, "requests": 100.0, "errors": 0, "share_ready": 1.0, **(ready or {})}
    renewed = {"seconds": 2.0, "ready": True, "counted": counted, "largest_age_seconds": 1}
    return PrecomputeResults(30.0, visits, lay, [renewed], renewed)


def test_promises_that_hold_are_not_reported() -> None:
    """A machine that grows slower over the run changes nothing: phases of one round are compared."""
    document = report.as_json(HEAD, results())
    assert document["broken_promises"] == []
    assert document["working_over_idle"]["p95_ms"] == {"all": 1.05}
    assert "Every promise held" in report.as_markdown(document)


def test_every_broken_promise_is_reported() -> None:
    """Slower live requests, errors, a late answer, one that was not made ready or not made anew, a worker that did
    nothing, and nothing measured at all."""
    for made, said in (
        (results(working_ms=11.0), "1.100 times"),
        (results(errors=3), "requests failed"),
        (results(ready_ms=10.0), "p99_ms of answers that lie ready"),
        (results(counted=False), "not made ready anew"),
        (results(computed=0.0), "computed nothing"),
        (results(ready={"share_ready": 0.99}), "not all of what was made ready"),
        (results(ready={"errors": 1}), "for what lies ready failed"),
        (PrecomputeResults(30.0), "live p95 is –"),
    ):
        assert any(said in line for line in report.as_json(HEAD, made)["broken_promises"])


def test_the_report_has_even_columns() -> None:
    """And a line for each promise that is not kept."""
    text = report.as_markdown(report.as_json(HEAD, results(ready_ms=11.0)))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1
    assert text.count("\n- ") == 2
