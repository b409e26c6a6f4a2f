"""The gateway's benchmark: wrk's figures, our own clients, streams, ratios, the report's files."""

import asyncio
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.clients import closed_loop, open_loop
from bench.gateway import contenders, load, nginx, report, soak
from bench.gateway.canned import events
from bench.gateway.load import RelayOutcome
from bench.gateway.report import GatewayResults
from bench.gateway.requests import HEADERS, PATH, body
from bench.gateway.streams import drive
from bench.http_client import HttpLoadClient, HttpResponse, json_request, request_bytes
from bench.measurements import Measurement
from bench.servers import Contender, ContenderServer, ServerFailed
from tests.bench.test_report import HEAD

CHUNKS = 7
PRINTED = """Running 2s test @ http://127.0.0.1:1/
  200 requests in 2.00s
figures: {"requests": 200, "microseconds": 2000000, "p50_us": 1500, "p99_us": 9000, "connect": 0, "read": 0,"""
REST = ' "write": 0, "status": 50, "timeout": 1}'


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContenderServer]:
    """The canned upstream, with short streams."""
    command = [sys.executable, "-m", "bench.gateway.canned"]
    with ContenderServer(
        Contender("canned-test", "", lambda port: [*command, str(port), str(CHUNKS), "1"], None, PATH)
    ) as it:
        it.wait_ready()
        yield it


def measured(contender: str, number: int, clients: int, rate: float, p50: float | None) -> Measurement:
    return report.visit(contender, number, clients, RelayOutcome(10, rate, p50, p50, {"status": 1}), 50.0 + number)


def results() -> GatewayResults:
    rates = {"direct": (1000.0, 0.1), "litellm": (10.0, 20.1), "onecard": (500.0, 0.6)}
    cells = [
        measured(name, number, clients, rate * clients * (number + 1), p50)
        for name, (rate, p50) in rates.items()
        for number in range(3)
        for clients in (1, 64)
    ]
    return GatewayResults(cells)


def test_wrk_counts_errors_apart() -> None:
    """An answer that is an error does not count for throughput; times are in ms."""
    assert load.parse(PRINTED + REST) == RelayOutcome(150, 75.0, 1.5, 9.0, {"status": 50, "timeout": 1})


def test_wrk_without_an_answer_has_no_latency() -> None:
    """No answer is no figure, rather than a zero."""
    outcome = load.parse((PRINTED + REST).replace('"requests": 200', '"requests": 0').replace("50, ", "0, "))
    assert (outcome.per_second, outcome.p50_ms) == (0.0, None)


def test_wrk_without_figures_is_a_failure() -> None:
    """And not a cell of zeros."""
    with pytest.raises(ServerFailed, match="no figures"):
        load.parse("unable to connect")


@pytest.mark.skipif(load.generator()[:3] != "wrk", reason="wrk is not installed")
def test_wrk_is_told_what_to_send(upstream: ContenderServer) -> None:
    """Its script and its figures fit together."""
    outcome = load.run(upstream.url, 2, 1)
    assert outcome.requests > 0
    assert outcome.errors == {}


def test_without_wrk_our_own_clients_make_the_load(upstream: ContenderServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same figures, and the report says who made them."""
    monkeypatch.setattr(load.shutil, "which", lambda program: None)
    outcome = load.run(upstream.url, 2, 0.2)
    assert outcome.requests > 0
    assert outcome.p50_ms is not None
    assert (outcome.errors, "own clients" in load.generator()) == ({}, True)


def test_without_nginx_the_rest_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The upstream is our own then, and answers the same."""
    monkeypatch.setattr(nginx, "program", lambda: None)
    assert [each.name for each in contenders.relays(["nginx", "bare", "onecard"], 1, 2)] == ["bare", "onecard"]
    with ContenderServer(contenders.upstream()) as server:
        server.wait_ready()
        assert load.run(server.url, 1, 1).errors == {}


def test_ratios_and_what_is_added() -> None:
    """Throughput is divided median by median; what is added is the difference of medians at one client."""
    document = report.as_json(HEAD, {}, results())
    cell = document["medians"]["onecard"]["64"]
    assert (cell["rounds"], cell["per_second"], cell["peak_rss_mb"]) == (3, 500 * 64 * 2, 52)
    assert document["ratios"] == {
        "onecard/direct": {"1": 0.5, "64": 0.5},
        "onecard/litellm": {"1": 50.0, "64": 50.0},
    }
    assert document["added_p50_ms"] == {"litellm": 20.0, "onecard": 0.5}


@pytest.mark.parametrize("names", [("direct", "litellm", "onecard"), ("direct",), ("onecard",)])
def test_files_are_well_formed(tmp_path: Path, names: tuple[str, ...]) -> None:
    """With all contenders or a part of them, the JSON parses, rows are of one length, and the picture is XML."""
    some = GatewayResults([made for made in results().visits if made.contender in names])
    report.write(tmp_path, {**HEAD, "load_generator": "wrk"}, dict.fromkeys(names, "what"), some)
    assert json.loads((tmp_path / "gateway.json").read_text())["medians"]
    blocks = (tmp_path / "gateway.md").read_text().split("\n\n")
    tables = [block.splitlines() for block in blocks if block.startswith("|")]
    assert all(len({row.count("|") for row in rows}) == 1 for rows in tables)
    ElementTree.fromstring((tmp_path / "gateway.svg").read_text())


def test_growth_is_counted_from_the_first_step(tmp_path: Path) -> None:
    """What fills at first is no leak."""
    sizes = [50.0, 70.0, 71.0, 70.5]
    memory = [
        {"requests": 50_000 * step, "rss_mb": size, "per_second": None, "errors": {}} for step, size in enumerate(sizes)
    ]
    soak.write(tmp_path, HEAD, memory)
    assert "**+0.5 MB**" in (tmp_path / "gateway-soak.md").read_text()


async def test_whole_streams_are_told_from_torn_ones(upstream: ContenderServer) -> None:
    """What the upstream sent is whole; a chunk too few or another order is an error, by its name."""
    expected = events(CHUNKS)
    whole, tally, _ = await drive(upstream.url, 3, b"".join(expected))
    assert (len(whole), tally.errors) == (3, {})
    _, tally, _ = await drive(upstream.url, 2, b"".join([*expected, b"data: 99\n\n"]))
    assert tally.errors == {"cut short": 2}
    _, tally, _ = await drive(upstream.url, 2, b"".join(reversed(expected)))
    assert tally.errors == {"out of order": 2}


async def test_closed_loop_sends_each_request_once(upstream: ContenderServer) -> None:
    """A supply of 40 gives 40 answers, however many clients share it."""
    requests = iter([request_bytes(PATH, body(), HEADERS)] * 40)
    tally, _ = await closed_loop(upstream.url, requests, clients=7, seconds=60)
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
        tally, _ = await closed_loop(f"http://127.0.0.1:{port}", requests, clients=2, seconds=0.2)
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
    made = subprocess.run([sys.executable, "-m", "bench.gateway", "--relays", "x"], capture_output=True, text=True)
    assert made.returncode == 2
    assert "no relay 'x'" in made.stderr
