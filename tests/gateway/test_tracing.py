"""Spans, sent to a collector in the test's own process."""

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client import CollectorRegistry
from starlette.types import Message

from gateway.relay import ResponseCutOff, StreamedResponse
from gateway.telemetry.instrumentation import RequestInstrumentation
from gateway.telemetry.metrics import RouteMetrics, UpstreamMetrics
from gateway.telemetry.response_tap import ResponseTap
from gateway.upstream.deadline import Deadline
from onecard.errors import BadUpstream, TooBusy
from onecard.web.disconnect import ClientDisconnected
from tests.gateway.support import PATH, canned_gateway
from tests.shared.cache.support import eventually
from tests.support import Server, serving, start

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"
TEXT = "nobody else may read this"


@pytest.fixture(scope="module")
def canned() -> Iterator[Server]:
    """A canned LLM service."""
    with serving("tests.scripted_upstream", port_variable="CANNED_PORT", env={}) as server:
        yield server


@contextmanager
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """Its address, and the bodies that it has been sent."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", bodies
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def spans(bodies: list[bytes]) -> list[Span]:
    requests = [ExportTraceServiceRequest.FromString(body) for body in bodies]
    return [
        span
        for one in requests
        for resource in one.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def ask(door: Server, case: str) -> httpx.Response:
    body = {"case": case, "messages": [{"role": "user", "content": TEXT}]}
    return httpx.post(door.url + PATH, json=body, headers={"traceparent": TRACEPARENT}, timeout=20)


def traceparent_seen(canned: Server) -> str:
    told: str = httpx.get(f"{canned.url}/seen").json()["headers"]["traceparent"]
    return told


async def test_each_request_and_each_attempt_is_a_span_of_its_clients_trace(canned: Server) -> None:
    """The service is told of the attempt's; no span has a word of the request."""
    with collector() as (endpoint, bodies):
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100", "CACHE_ENABLED": "false"}
        with canned_gateway(canned, env) as door:
            assert ask(door, "echo").status_code == 200
            told = traceparent_seen(canned)
            await eventually(lambda: len(spans(bodies)) == 2, 10)
    by_name = {span.name: span for span in spans(bodies)}
    request, attempt = by_name[f"POST {PATH}"], by_name["llm"]
    assert {span.trace_id.hex() for span in by_name.values()} == {TRACE}
    assert request.parent_span_id.hex() == TRACEPARENT.split("-")[2]
    assert attempt.parent_span_id == request.span_id
    assert told == f"00-{TRACE}-{attempt.span_id.hex()}-01"
    assert request.start_time_unix_nano <= attempt.start_time_unix_nano <= request.end_time_unix_nano
    assert TEXT.encode() not in b"".join(bodies)
    assert canned.url.encode() not in b"".join(bodies)


def test_a_span_says_the_method_of_its_request(canned: Server) -> None:
    """Of reading, of removing, of sending, each its own."""
    asked = {"GET": "/v1/restaurants/{restaurant_id}/summary", "DELETE": "/v1/reviews/{review_id}", "POST": PATH}
    with collector() as (endpoint, bodies):
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "CACHE_ENABLED": "false", "REVIEW_URL": canned.url}
        with canned_gateway(canned, env) as door:
            for method, path in asked.items():
                httpx.request(method, door.url + path.replace("{restaurant_id}", "a").replace("{review_id}", "b"))
    methods = {
        span.name: attribute.value.string_value
        for span in spans(bodies)
        for attribute in span.attributes
        if attribute.key == "http.request.method"
    }
    assert methods == {f"{method} {path}": method for method, path in asked.items()}


async def test_failed_attempts_are_marked_and_a_stop_sends_what_is_left(canned: Server) -> None:
    """A refusal, repeated twice, is three attempts of one request."""
    with collector() as (endpoint, bodies):
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "60000", "CACHE_ENABLED": "false"}
        with canned_gateway(canned, env) as door:
            assert ask(door, "busy").status_code == 503
    found = spans(bodies)
    assert sorted(span.name for span in found) == [f"POST {PATH}", "llm", "llm", "llm"]
    assert all(span.status.code == span.status.STATUS_CODE_ERROR for span in found)
    outcomes = [attribute.value.string_value for span in found for attribute in span.attributes]
    assert outcomes.count("refused") == 3


class NotedTracer:
    """A tracer, and the span of its one request, which notes the status that it ends with."""

    status = 0

    def request(self, *described: object, **more: object) -> "NotedTracer":
        return self

    def attempt(self, upstream: str, replica: int) -> Any:
        raise AssertionError("nothing is sent")

    def end(self, status: int) -> None:
        self.status = status


async def take(message: Message) -> None:
    """A client that takes everything."""


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ClientDisconnected(), 499),
        (asyncio.CancelledError(), 503),
        (TooBusy(""), 429),
        (KeyError("a bug"), 500),
        (ResponseCutOff(502), 502),
    ],
    ids=["the client left", "the gateway stops", "refused", "a bug", "cut off"],
)
@pytest.mark.parametrize("begun", [False, True])
async def test_a_span_ends_with_what_became_of_its_request(error: BaseException, status: int, begun: bool) -> None:
    """Only a client that has left is one that has left."""
    tracer, registry = NotedTracer(), CollectorRegistry()
    state = {"received": time.perf_counter(), "body": b""}
    scope = {"method": "POST", "headers": [], "route": SimpleNamespace(path=PATH), "state": state}
    tap, service = ResponseTap(take), UpstreamMetrics(registry).of("llm")
    routes = RouteMetrics(registry, time.monotonic)

    async def fail() -> None:
        with RequestInstrumentation(scope, tap, routes, service, tracer, "name"):
            if begun:
                await tap.send({"type": "http.response.start", "status": 200, "headers": []})
            raise error

    with pytest.raises(type(error)):
        await fail()
    assert tracer.status == status


async def test_an_answer_that_is_cut_off_says_what_was_wrong() -> None:
    """Its status is sent already."""

    async def broken() -> AsyncIterator[bytes]:
        yield b"{"
        raise BadUpstream("broke off")

    async def staying() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    deadline = Deadline(time.monotonic() + 60, time.monotonic)
    response = StreamedResponse(broken(), 200, {}, deadline, AsyncExitStack(), is_sse=False)
    with pytest.raises(ResponseCutOff) as cut:
        await response({"type": "http", "path": PATH}, staying, take)
    assert cut.value.status_code == 502


@pytest.mark.parametrize("listens", [False, True], ids=["away", "silent"])
def test_a_collector_that_does_not_answer_holds_up_nobody(canned: Server, listens: bool) -> None:
    """Neither a request nor the stop, and the log does not tell where it should be."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        if listens:
            nobody.listen()
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{address}", "OTEL_BSP_SCHEDULE_DELAY": "50"}
        with canned_gateway(canned, {**env, "CACHE_ENABLED": "false"}) as door:
            assert ask(door, "echo").status_code == 200
            assert door.stop() == -signal.SIGTERM
            assert "spans not sent" in door.log()
            assert address not in door.log()


@pytest.fixture
def without_opentelemetry(tmp_path: Path) -> dict[str, str]:
    """Environment of a process that has no OpenTelemetry."""
    (tmp_path / "opentelemetry.py").write_text("raise ModuleNotFoundError('opentelemetry')")
    return {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]), "CACHE_ENABLED": "false"}


def test_without_a_collector_nothing_of_opentelemetry_is_needed(
    canned: Server, without_opentelemetry: dict[str, str]
) -> None:
    """The client's traceparent goes on as it came."""
    with canned_gateway(canned, without_opentelemetry) as door:
        assert ask(door, "echo").status_code == 200
    assert traceparent_seen(canned) == TRACEPARENT


def test_a_collector_without_opentelemetry_stops_the_start(without_opentelemetry: dict[str, str]) -> None:
    """One line says what to install."""
    env = {**without_opentelemetry, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    server = start("gateway", port_variable="GATEWAY_PORT", env=env)
    assert server.process.wait(30) == 1
    assert "onecard-gateway[otlp]" in server.log().splitlines()[-1]
    assert "Traceback" not in server.log()
