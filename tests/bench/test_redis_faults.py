"""Phases, recovery and promises of the benchmark with a sick Redis; sizes of the churn."""

import asyncio
import socket

import pytest
import typer
from aiohttp import web
from aiohttp.test_utils import TestServer

from bench import churn, machine
from bench.clients import Answer, open_loop
from bench.command import parse_names
from bench.redis_faults import report
from bench.redis_faults.__main__ import FaultPlan, measure, poll_readiness, requests
from bench.redis_faults.faults import REDIS_SETUPS, RedisFault
from bench.redis_faults.redis import FaultyRedis
from bench.redis_faults.report import FaultVisit, ReadinessSample
from bench.servers import ServerFailed
from tests.support import free_port

VISIT = FaultVisit("stopped", started=0.0, broken=10.0, settled=20.0, healed=21.0, ended=30.0)
HEAD = machine.describe("bench")


def looks(*changes: tuple[float, str]) -> list[ReadinessSample]:
    """One every half second until 30; each status holds from its time on."""
    times = [step / 2 for step in range(60)]
    return [ReadinessSample(at, [status for since, status in changes if since <= at][-1]) for at in times]


WELL = looks((0.0, "ok"), (11.0, "degraded"), (22.0, "ok"))
SLOWER = looks((0.0, "ok"), (12.0, "degraded"), (24.0, "ok"))


def answers(*more: Answer, added_ms: float = 0.0) -> list[Answer]:
    """Ten a second, slower by `added_ms` once Redis is sick; and some more."""
    steady = [
        Answer(step / 10, 5.0 + (added_ms if step >= 100 else 0.0), None, "hit" if step < 100 else "miss")
        for step in range(300)
    ]
    return [*steady, *more]


def test_a_request_belongs_to_the_phase_that_it_ended_in() -> None:
    """One that was under way when the fault began counts for the fault, with what it had to wait."""
    made = report.summarize_fault(VISIT, answers(Answer(10.04, 50.0, None, None)), [WELL])
    assert [made["phases"][name]["requests"] for name in report.PHASES] == [100, 101, 100]
    assert made["phases"]["healthy"]["max_ms"] == 5.0
    assert made["phases"]["fault"]["max_ms"] == 50.0
    assert made["phases"]["healthy"]["hits"] == 1.0
    assert "p99_added_ms" not in made["phases"]["healthy"]


def test_readiness_counts_when_the_last_service_has_said_it() -> None:
    """From the beginning of the fault, and from healing."""
    made = report.summarize_fault(VISIT, answers(), [WELL, SLOWER])
    assert (made["seconds_until_degraded"], made["seconds_until_ok"]) == (2.0, 3.0)


def test_a_service_that_is_ok_and_then_not_has_not_recovered_yet() -> None:
    """It has once it says nothing else until the end; one that never does has no time."""
    wavering = looks((0.0, "ok"), (11.0, "degraded"), (22.0, "ok"), (23.0, "degraded"), (25.0, "ok"))
    assert report.seconds_until("ok", [wavering, WELL], 21.0, 30.0, to_stay=True) == 4.0
    assert report.seconds_until("ok", [looks((0.0, "degraded"))], 21.0, 30.0, to_stay=True) is None
    assert report.seconds_until("ok", [[]], 21.0, 30.0, to_stay=True) is None


def test_promises_that_hold_are_not_reported() -> None:
    """No failure, p99 within 50 ms, degraded, and ok in time."""
    assert report.missed_targets([report.summarize_fault(VISIT, answers(added_ms=49.0), [WELL])]) == []


@pytest.mark.parametrize(
    ("asked", "seen", "said"),
    [
        (answers(Answer(15.0, 5.0, "503", None)), WELL, "1 of 101 requests failed"),
        (answers(added_ms=51.0), WELL, "51 ms over"),
        (answers(), looks((0.0, "ok")), "did not say degraded"),
        (answers(), looks((0.0, "ok"), (11.0, "degraded"), (27.0, "ok")), "not ok 5 s after"),
        ([], WELL, "0 of 0 requests"),
    ],
)
def test_every_broken_promise_is_reported(asked: list[Answer], seen: list[ReadinessSample], said: str) -> None:
    """With the fault and the phase."""
    found = report.missed_targets([report.summarize_fault(VISIT, asked, [seen])])
    assert found
    assert any(said in line and line.startswith("stopped") for line in found)


def test_a_brief_fault_may_pass_unseen() -> None:
    """Redis was back before anybody looked."""
    brief = FaultVisit("restarted", 0.0, 10.0, 20.0, 10.1, 30.0, may_go_unnoticed=True)
    made = report.summarize_fault(brief, answers(), [looks((0.0, "ok"))])
    assert made["seconds_until_ok"] == pytest.approx(0.4)
    assert report.missed_targets([made]) == []


def test_a_case_is_one_line_with_all_that_was_promised() -> None:
    """Requests and failures of all phases, latencies healthy and ill, what was added, and what readiness said."""
    result = report.summarize_fault(VISIT, answers(Answer(15.0, 5.0, "503", None), added_ms=40.0), [WELL])
    document = {"machine": HEAD, "rate": 60.0, "what": {}, "faults": [result], "broken_promises": []}
    line = next(line for line in report.as_markdown(document).splitlines() if line.startswith("| stopped |"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["stopped", "301", "1", "5.0", "45.0", "5.0", "45.0", "40.0", "1.00", "1.00"]


def test_the_report_has_every_phase_in_even_columns() -> None:
    """Figures that are missing are dashes."""
    results = [report.summarize_fault(VISIT, made, [WELL]) for made in (answers(), [])]
    document = {"machine": HEAD, "rate": 60.0, "what": {"stopped": "killed"}, "faults": results, "broken_promises": []}
    tables = [block.splitlines() for block in report.as_markdown(document).split("\n\n") if block.startswith("|")]
    assert [len(rows) for rows in tables] == [2 + 2, 2 + 2 * len(report.PHASES)]
    assert all(len({row.count("|") for row in rows}) == 1 for rows in tables)


def test_requests_are_repeated_and_new_in_every_kind() -> None:
    """About half of them have been asked before, and the same seed makes the same ones."""
    made = list(requests(600, "seed"))
    assert made == list(requests(600, "seed"))
    kinds = [(b"/v1/sentiment" in one, b'"stream": true' in one) for one in made]
    assert kinds == [(True, False), (False, False), (False, True)] * 200
    assert 0.2 < 1 - len(set(made)) / len(made) < 0.5


async def test_no_answer_is_a_failure_and_no_exception() -> None:
    """The load goes on, and readiness is silent."""
    nobody, stop = f"http://127.0.0.1:{free_port()}", asyncio.Event()
    looking = asyncio.create_task(poll_readiness(nobody, stop))
    tally = await open_loop(nobody, requests(3, "seed"), rate=1000)
    stop.set()
    assert (len(tally.answers), tally.latencies_ms, sum(tally.errors.values())) == (3, [], 3)
    assert {look.status for look in await looking} == {"silent"}


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


async def test_a_tiny_run_asks_breaks_heals_and_watches() -> None:
    """A service that says degraded while it is told that Redis is ill, and answers all the same."""
    ill: list[bool] = []

    async def ready(_: web.Request) -> web.Response:
        return web.json_response({"status": "degraded" if ill else "ok"})

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=b"data: [DONE]", headers={"x-cache": "hit"})

    app = web.Application()
    app.router.add_get("/health/ready", ready)
    app.router.add_post("/{path:.*}", answer)
    faults = [
        RedisFault("stopped", "", lambda: ill.append(True), ill.clear),
        RedisFault("restarted", "", lambda: ill.append(True), ill.clear, momentary=True, may_go_unnoticed=True),
    ]
    plan = FaultPlan(50.0, healthy=0.3, fault=0.3, healed=0.3, warm=0.1)
    async with TestServer(app) as server:
        found = await measure([str(server.make_url("")).rstrip("/")] * 2, faults, plan)
    assert [made["fault"] for made in found] == ["stopped", "restarted"]
    assert all(phase["requests"] and phase["hits"] == 1 for made in found for phase in made["phases"].values())
    assert report.missed_targets(found) == []


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
