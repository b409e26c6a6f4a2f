"""Phases and promises of the benchmark with a sick Redis; sizes of the churn."""

import socket

import pytest
import typer
from aiohttp import web
from aiohttp.test_utils import TestServer

from bench import churn, machine
from bench.clients import Answer, open_loop
from bench.command import parse_names
from bench.redis_faults import __main__ as faults_bench
from bench.redis_faults.__main__ import FaultPlan, FaultVisit, measure, requests
from bench.redis_faults.faults import REDIS_SETUPS, RedisFault
from bench.redis_faults.redis import FaultyRedis
from bench.servers import ServerFailed
from tests.bench.test_report import even_tables
from tests.support import free_port

VISIT = FaultVisit("stopped", started=0.0, broken=10.0, settled=20.0, ended=30.0)
HEAD = machine.describe("bench")


def answers(*more: Answer, added_ms: float = 0.0) -> list[Answer]:
    """Ten a second, slower by `added_ms` once Redis is sick; and some more."""
    steady = [
        Answer(step / 10, 5.0 + (added_ms if step >= 100 else 0.0), None, "hit" if step < 100 else "miss")
        for step in range(300)
    ]
    return [*steady, *more]


def test_a_request_belongs_to_the_phase_that_it_ended_in() -> None:
    """One that was under way when the fault began counts for the fault, with what it had to wait."""
    made = faults_bench.summarize_fault(VISIT, answers(Answer(10.04, 50.0, None, None)))
    assert [made["phases"][name]["requests"] for name in faults_bench.PHASES] == [100, 101, 100]
    assert made["phases"]["healthy"]["max_ms"] == 5.0
    assert made["phases"]["fault"]["max_ms"] == 50.0
    assert made["phases"]["healthy"]["hits"] == 1.0
    assert made["phases"]["healthy"]["p99_added_ms"] == 0.0


def test_promises_that_hold_are_not_reported() -> None:
    """No failure, and p99 within 50 ms."""
    assert faults_bench.missed_targets([faults_bench.summarize_fault(VISIT, answers(added_ms=49.0))]) == []


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (answers(Answer(15.0, 5.0, "503", None)), "1 of 101 requests failed"),
        (answers(added_ms=51.0), "51 ms over"),
        ([], "0 of 0 requests"),
    ],
)
def test_every_broken_promise_is_reported(asked: list[Answer], said: str) -> None:
    """With the fault and the phase."""
    found = faults_bench.missed_targets([faults_bench.summarize_fault(VISIT, asked)])
    assert found
    assert any(said in line and line.startswith("stopped") for line in found)


def test_a_phase_is_one_line_with_all_that_was_promised() -> None:
    """Requests, failures and latencies, and what was added; figures that are missing are dashes."""
    asked = answers(Answer(15.0, 5.0, "503", None), added_ms=40.0)
    results = [faults_bench.summarize_fault(VISIT, made) for made in (asked, [])]
    document = {"machine": HEAD, "rate": 60.0, "what": {"stopped": "killed"}, "faults": results, "broken_promises": []}
    (rows,) = even_tables(faults_bench.as_markdown(document))
    assert len(rows) == 2 + 2 * len(faults_bench.PHASES)
    assert rows[3] == "| stopped: fault | 101 | 1 | 0 % | 45.0 | 45.0 | 45.0 | 40.0 |"
    assert rows[6] == "| stopped: fault | 0 | 0 | – | – | – | – | – |"


def test_requests_are_repeated_and_new_in_every_kind() -> None:
    """About half of them have been asked before, and the same seed makes the same ones."""
    made = list(requests(600, "seed"))
    assert made == list(requests(600, "seed"))
    kinds = [(b"/v1/sentiment" in one, b'"stream": true' in one) for one in made]
    assert kinds == [(True, False), (False, False), (False, True)] * 200
    assert 0.2 < 1 - len(set(made)) / len(made) < 0.5


async def test_no_answer_is_a_failure_and_no_exception() -> None:
    """The load goes on."""
    tally = await open_loop(f"http://127.0.0.1:{free_port()}", requests(3, "seed"), rate=1000)
    assert (len(tally.answers), tally.latencies_ms, sum(tally.errors.values())) == (3, [], 3)


@pytest.mark.parametrize("name", REDIS_SETUPS)
async def test_every_redis_falls_ill_and_is_well_again(name: str) -> None:
    """Each fault begins and ends, one after the other, on the servers that the one before has left behind."""
    async with REDIS_SETUPS[name]() as patient:
        assert len(patient.settings) == 1
        for fault in patient.faults:
            fault.inject()
            fault.recover()


def test_a_redis_that_cannot_have_its_port_is_not_waited_for() -> None:
    """It ends, and that is said at once."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Not listening: nobody answers there.
        with pytest.raises(ServerFailed, match="exited with 1"):
            FaultyRedis(port=taken.getsockname()[1]).start()


def test_only_forms_that_there_are_can_be_chosen() -> None:
    assert parse_names("slow,cluster", [*REDIS_SETUPS]) == ["slow", "cluster"]
    with pytest.raises(typer.BadParameter, match="'fast'"):
        parse_names("fast", [*REDIS_SETUPS])


async def test_a_tiny_run_asks_breaks_and_heals() -> None:
    """A gateway that answers all the same, and fewer hits while Redis is ill."""
    ill: list[bool] = []

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=b"data: [DONE]", headers={"x-cache": "miss" if ill else "hit"})

    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    faults = [
        RedisFault("stopped", "", lambda: ill.append(True), ill.clear),
        RedisFault("restarted", "", lambda: ill.append(True), ill.clear, momentary=True),
    ]
    plan = FaultPlan(50.0, healthy=0.3, fault=0.3, healed=0.3, warm=0.1)
    async with TestServer(app) as server:
        found = await measure(str(server.make_url("")).rstrip("/"), faults, plan)
    assert [made["fault"] for made in found] == ["stopped", "restarted"]
    stopped = found[0]["phases"]
    assert stopped["healthy"]["hits"] == 1
    assert stopped["fault"]["hits"] < 1
    assert all(phase["requests"] and not phase["failures"] for made in found for phase in made["phases"].values())


def test_churned_values_have_the_sizes_of_their_kinds() -> None:
    """From the smallest chat to the largest."""
    assert (churn.size_of("embedding", 0.5), churn.size_of("sentiment", 0.5)) == (3072, 20)
    assert [churn.size_of("chat", share) for share in (0.0, 1.0)] == [200, 50_000]


async def test_a_short_churn_stays_inside_a_small_bound() -> None:
    """What was counted came close to it, and never passed it."""
    made = await churn.churn(bound=200_000, seconds=1.0)
    assert made["held"]
    assert 100_000 < made["peak_counted_bytes"] <= 200_000
    assert made["samples"]
