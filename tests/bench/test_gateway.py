"""The gateway's benchmark: wrk's figures, our own clients, streams, ratios, the reports."""

import asyncio
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from bench.canned import PATH, events
from bench.clients import HttpLoadClient, HttpResponse, closed_loop, json_request, open_loop, request_bytes
from bench.gateway import __main__ as report
from bench.gateway import contenders, load
from bench.gateway.load import HEADERS, body, drive_streams
from bench.measurements import Measurement
from bench.servers import ContenderServer, ServerFailed, canned
from tests.bench.test_report import HEAD, even_tables

CHUNKS = 7
PRINTED = """Running 2s test @ http://127.0.0.1:1/
  200 requests in 2.00s
figures: {"requests": 200, "microseconds": 2000000, "p50_us": 1500, "p99_us": 9000, "connect": 0, "read": 0,"""
REST = ' "write": 0, "status": 50, "timeout": 1}'


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContenderServer]:
    """The canned upstream, with short streams."""
    with ContenderServer(canned(CHUNKS, 1, name="canned-test")) as it:
        it.wait_ready()
        yield it


def measured(contender: str, number: int, clients: int, rate: float, p50: float | None) -> Measurement:
    figures = {"per_second": rate, "p50_ms": p50, "p99_ms": p50, "errors": 1, "peak_rss_mb": 50.0 + number}
    return Measurement(contender, str(clients), number, figures)


def document(*names: str) -> dict[str, Any]:
    rates = {"direct": (1000.0, 0.1), "litellm": (10.0, 20.1), "onecard": (500.0, 0.6)}
    visits = [
        measured(name, number, clients, rate * clients * (number + 1), p50)
        for name, (rate, p50) in rates.items()
        for number in range(3)
        for clients in (1, 64)
        if name in names
    ]
    return report.as_json({**HEAD, "load_generator": "wrk"}, dict.fromkeys(names, "what"), visits, {})


def test_wrk_counts_errors_apart() -> None:
    """An answer that is an error does not count for throughput; times are in ms."""
    assert load.parse(PRINTED + REST) == {"per_second": 75.0, "p50_ms": 1.5, "p99_ms": 9.0, "errors": 51}


def test_wrk_without_an_answer_has_no_latency() -> None:
    """No answer is no figure, rather than a zero."""
    outcome = load.parse((PRINTED + REST).replace('"requests": 200', '"requests": 0').replace("50, ", "0, "))
    assert (outcome["per_second"], outcome["p50_ms"]) == (0.0, None)


def test_wrk_without_figures_is_a_failure() -> None:
    """And not a cell of zeros."""
    with pytest.raises(ServerFailed, match="no figures"):
        load.parse("unable to connect")


@pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not installed")
def test_wrk_is_told_what_to_send(upstream: ContenderServer) -> None:
    """Its script and its figures fit together."""
    outcome = load.run(upstream.address + PATH, 2, 1)
    assert outcome["per_second"]
    assert outcome["errors"] == 0


def test_without_wrk_there_is_no_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install is said."""
    monkeypatch.setattr(load.shutil, "which", lambda program: None)
    with pytest.raises(ServerFailed, match="apt install wrk"):
        load.run("http://127.0.0.1:9", 2, 0.2)


async def test_without_nginx_the_rest_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The upstream is our own then, and answers the same."""
    monkeypatch.setattr(contenders, "nginx_program", lambda: None)
    assert [each.name for each in contenders.relays(["nginx", "bare", "onecard"], 1, 2)] == ["bare", "onecard"]
    with ContenderServer(contenders.upstream()) as server:
        server.wait_ready()
        requests = iter([request_bytes(PATH, body(), HEADERS)] * 3)
        tally = await closed_loop(server.url, requests, clients=1, seconds=60)
    assert (len(tally.latencies_ms), tally.errors) == (3, {})


def test_ratios_and_what_is_added() -> None:
    """Throughput is divided median by median; what is added is the difference of medians at one client."""
    made = document("direct", "litellm", "onecard")
    cell = made["medians"]["onecard"]["64"]
    assert (cell["rounds"], cell["per_second"], cell["peak_rss_mb"]) == (3, 500 * 64 * 2, 52)
    assert made["ratios"] == {
        "onecard/direct": {"1": 0.5, "64": 0.5},
        "onecard/litellm": {"1": 50.0, "64": 50.0},
    }
    assert made["added_p50_ms"] == {"litellm": 20.0, "onecard": 0.5}


@pytest.mark.parametrize("names", [("direct", "litellm", "onecard"), ("direct",), ("onecard",)])
def test_the_report_is_well_formed(names: tuple[str, ...]) -> None:
    """With all contenders or a part of them, there is a JSON document, and rows are of one length."""
    made = document(*names)
    assert json.loads(json.dumps(made))["medians"]
    assert even_tables(report.as_markdown(made))


def test_growth_is_counted_from_the_first_step() -> None:
    """What fills at first is no leak."""
    sizes = [50.0, 70.0, 71.0, 70.5]
    memory = [
        {"requests": 50_000 * step, "rss_mb": size, "per_second": None, "errors": {}} for step, size in enumerate(sizes)
    ]
    assert "**+0.5 MB**" in report.soak_markdown(report.soak_json(HEAD, memory))


async def test_whole_streams_are_told_from_torn_ones(upstream: ContenderServer) -> None:
    """What the upstream sent is whole; a chunk too few or another order is an error, by its name."""
    expected = events(CHUNKS)
    whole, tally = await drive_streams(upstream.url, 3, b"".join(expected))
    assert (len(whole), tally.errors) == (3, {})
    _, tally = await drive_streams(upstream.url, 2, b"".join([*expected, b"data: 99\n\n"]))
    assert tally.errors == {"cut short": 2}
    _, tally = await drive_streams(upstream.url, 2, b"".join(reversed(expected)))
    assert tally.errors == {"out of order": 2}


async def test_closed_loop_sends_each_request_once(upstream: ContenderServer) -> None:
    """A supply of 40 gives 40 answers, however many clients share it."""
    requests = iter([request_bytes(PATH, body(), HEADERS)] * 40)
    tally = await closed_loop(upstream.url, requests, clients=7, seconds=60)
    assert (len(tally.latencies_ms), tally.errors) == (40, {})


async def test_open_loop_does_not_wait_for_answers(upstream: ContenderServer) -> None:
    """All are sent, and all answers are noted."""
    noted: list[HttpResponse] = []
    requests = [json_request(PATH, {"stream": number % 2 == 0}, {}) for number in range(20)]
    tally = await open_loop(upstream.url, requests, rate=1000, note=noted.append)
    assert len(tally.latencies_ms) == len(noted) == 20
    assert {answer.headers["content-type"] for answer in noted} == {"application/json", "text/event-stream"}


async def test_a_server_that_goes_is_an_error_and_not_a_hang(upstream: ContenderServer) -> None:
    """A connection that ends before its answer is counted by its name, and the loop ends."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        requests = itertools.repeat(request_bytes("/", b"{}", {}))
        tally = await closed_loop(f"http://127.0.0.1:{port}", requests, clients=2, seconds=0.2)
    assert tally.latencies_ms == []
    assert set(tally.errors) <= {"ConnectionError", "ConnectionResetError", "BrokenPipeError"}


async def test_one_connection_carries_short_answers_and_streams(upstream: ContenderServer) -> None:
    """In turn."""
    async with HttpLoadClient(upstream.url) as client:
        for stream in (False, True, False):
            answer = await client.send(request_bytes(PATH, body(stream=stream), {}))
            assert (answer.body == b"".join(events(CHUNKS))) is stream
            assert 0 < answer.first_seconds <= answer.seconds


def test_a_wrong_relay_is_a_usage_error() -> None:
    """Said before anything starts."""
    made = subprocess.run([sys.executable, "-m", "bench.gateway", "--contenders", "x"], capture_output=True, text=True)
    assert made.returncode == 2
    assert "no 'x' here" in made.stderr
