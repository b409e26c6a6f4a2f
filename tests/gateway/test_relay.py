"""The relay against an upstream that misbehaves in every way."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import starmap
from typing import Any

import httpx
import pytest

from tests.gateway.support import canned_gateway
from tests.protocol.frames import http2_client, literal, request, reset
from tests.support import KEY, Server, free_port, serving

PATH = "/v1/chat/completions"
FIRST_WINDOW_BYTES = 65_535
"""What HTTP/2 lets a server send before its client says more."""


@pytest.fixture
def canned() -> Iterator[Server]:
    """A canned LLM service; a test may kill it."""
    with serving("tests.scripted_upstream", port_variable="CANNED_PORT", env={}) as server:
        yield server


@contextmanager
def gateway_client(canned: Server) -> Iterator[httpx.Client]:
    """A client of a gateway in front of it, with the key."""
    nobody = f"http://127.0.0.1:{free_port()}"
    env = {
        "LLM_URL": canned.url,
        "SENTIMENT_URL": nobody,
        "EMBEDDING_URL": nobody,
        "REVIEW_URL": nobody,
        "API_KEY": KEY,
        "CACHE_ENABLED": "false",
    }
    with (
        serving("gateway", port_variable="GATEWAY_PORT", env=env) as server,
        httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {KEY}"}, timeout=20) as client,
    ):
        yield client


@pytest.fixture
def door(canned: Server) -> Iterator[httpx.Client]:
    """A client of a gateway in front of it, with the key."""
    with gateway_client(canned) as client:
        yield client


@pytest.fixture(scope="module")
def shared_canned() -> Iterator[Server]:
    """A canned LLM service that nobody kills."""
    with serving("tests.scripted_upstream", port_variable="CANNED_PORT", env={}) as server:
        yield server


@pytest.fixture(scope="module")
def shared_door(shared_canned: Server) -> Iterator[httpx.Client]:
    """The same in front of that one."""
    with gateway_client(shared_canned) as client:
        yield client


def seen(canned: Server) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.get(f"{canned.url}/seen").json()
    return answer


def eventually(canned: Server, **expected: int) -> None:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if expected.items() <= seen(canned).items():
            return
        time.sleep(0.05)
    raise AssertionError(f"expected {expected}, saw {seen(canned)}")


def error(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    body: dict[str, Any] = answer.json()["error"]
    assert set(body) == {"message", "type", "param", "code"}
    return body


def test_chunks_are_passed_on_as_they_come(door: httpx.Client, canned: Server) -> None:
    """The first event is here long before the last is sent, and all arrive in order."""
    with door.stream("POST", PATH, json={"case": "stream", "count": 10, "seconds": 0.2}) as answer:
        lines = answer.iter_lines()
        first = next(lines)
        assert seen(canned)["finished"] == 0  # The upstream is still at work.
        events = [first, *(line for line in lines if line)]
    assert events == [*(f"data: {number}" for number in range(10)), "data: [DONE]"]


def test_a_client_that_leaves_a_stream_cancels_the_work(door: httpx.Client, canned: Server) -> None:
    """The upstream sees the disconnect and stops."""
    with door.stream("POST", PATH, json={"case": "stream", "count": 200, "seconds": 0.1}) as answer:
        next(answer.iter_lines())
    eventually(canned, running=0, cancelled=1, finished=0)


@pytest.mark.parametrize("leaves", ["its stream", "altogether"])
def test_a_client_of_http2_that_leaves_a_flood_it_has_no_window_for_cancels_the_work(
    door: httpx.Client, canned: Server, leaves: str
) -> None:
    """At the moment in which it leaves, nobody waits for its window any more."""
    told = {b"authorization": f"Bearer {KEY}".encode(), b"content-type": b"application/json"}
    body = json.dumps({"case": "flood", "size": 60_000}).encode()
    with http2_client(door.base_url.port or 0) as client:
        client.send(request(1, PATH.encode(), *starmap(literal, told.items()), method=b"POST", body=body))
        while len(client.body.get(1, b"")) < FIRST_WINDOW_BYTES:
            client.read()
        eventually(canned, running=1)
        if leaves == "its stream":
            client.send(reset(1))
            eventually(canned, running=0)
    eventually(canned, running=0)


def test_a_client_that_leaves_before_its_answer_cancels_the_work(door: httpx.Client, canned: Server) -> None:
    """Also when nothing has been answered yet."""
    body = json.dumps({"case": "slow", "seconds": 20}).encode()
    head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nauthorization: Bearer {KEY}\r\n"
    with socket.create_connection((door.base_url.host, door.base_url.port or 0)) as connection:
        connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        eventually(canned, running=1)
    eventually(canned, running=0, cancelled=1)
    assert f'onecard_http_requests_total{{method="POST",route="{PATH}",status="499"}}' in door.get("/metrics").text


def test_a_service_that_does_not_speak_http_is_a_502(door: httpx.Client, canned: Server) -> None:
    """A wrong port in a setting takes down neither the gateway nor its view of the other services."""
    canned.process.kill()
    canned.process.wait()
    with socket.create_server(("127.0.0.1", canned.port)) as babbler:
        threading.Thread(target=babble, args=(babbler,), daemon=True).start()
        error(door.post(PATH, json={"case": "echo"}), 502)
        assert door.get("/health/ready").json()["parts"]["llm"]["status"] == "down"
        assert door.get("/v1/models").json()["data"] == []


def babble(listener: socket.socket) -> None:
    """Answer every connection with something that is not HTTP."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.recv(65536)
            connection.sendall(b"220 mail.example ESMTP\r\n")


def test_a_service_that_is_away_is_a_503_with_retry_after(door: httpx.Client, canned: Server) -> None:
    """And the gateway works again as soon as the service is back."""
    canned.process.kill()
    canned.process.wait()
    answer = door.post(PATH, json={"case": "echo"})
    assert "llm" in error(answer, 503)["message"]
    assert int(answer.headers["retry-after"]) >= 1
    with serving("tests.scripted_upstream", port_variable="CANNED_PORT", env={}, port=canned.port):
        assert door.post(PATH, json={"case": "echo"}).status_code == 200


def test_a_service_that_dies_while_answering_is_told_from_one_that_ended(door: httpx.Client) -> None:
    """A stream ends with an error event instead of [DONE]."""
    with door.stream("POST", PATH, json={"case": "stream and die", "count": 3, "seconds": 0.05}) as answer:
        events = [line for line in answer.iter_lines() if line]
    assert events[:3] == ["data: 0", "data: 1", "data: 2"]
    assert set(json.loads(events[3].removeprefix("data: "))["error"]) == {"message", "type", "param", "code"}


def test_the_error_event_is_whole_also_after_half_an_event(door: httpx.Client) -> None:
    """A service that dies inside an event does not spoil the one that says so."""
    with door.stream("POST", PATH, json={"case": "stream and die inside an event"}) as answer:
        events = [event for event in answer.read().decode().split("\n\n") if event]
    assert events[0] == "data: 0"
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"]


def test_a_service_that_dies_before_answering_is_an_error_with_retry_after(door: httpx.Client) -> None:
    """The gateway tries once more in vain, and tells the client to try again."""
    answer = door.post(PATH, json={"case": "die"})
    error(answer, 503)
    assert answer.headers["retry-after"]


@pytest.mark.parametrize(
    ("path", "limit"), [("/v1/embeddings", "UPSTREAM_FIRST_BYTE_SECONDS"), (PATH, "UPSTREAM_TOTAL_SECONDS")]
)
def test_a_silent_service_is_a_504(canned: Server, path: str, limit: str) -> None:
    """No hang, and the work is cancelled."""
    with canned_gateway(canned, {"EMBEDDING_URL": canned.url, "CACHE_ENABLED": "false", limit: "2"}) as gateway:
        error(httpx.post(gateway.url + path, json={"case": "slow", "seconds": 20}, timeout=20), 504)
        eventually(canned, running=0, cancelled=1)


@pytest.mark.parametrize(("case", "status"), [("plain error", 500), ("busy", 503), ("refused", 502)])
def test_errors_of_a_service_come_in_the_one_shape_and_tell_no_secrets(
    door: httpx.Client, case: str, status: int
) -> None:
    """No address, no path; a 503 carries Retry-After; our own key being refused is not the client's fault."""
    answer = door.post(PATH, json={"case": case})
    error(answer, status)
    assert "secret" not in answer.text
    assert "10.0.0.7" not in answer.text
    assert status != 503 or answer.headers["retry-after"]


def test_only_listed_headers_pass(shared_door: httpx.Client, shared_canned: Server) -> None:
    """The client's key, cookies and own headers stay outside; the service's stay inside."""
    headers = {"cookie": "c=1", "x-forwarded-for": "1.2.3.4", "traceparent": "00-a-b-01", "x-request-id": "id-1"}
    headers |= {"x-onecard-lane": "bulk", "x-onecard-timeout-ms": "900"}
    answer = shared_door.post(PATH, json={"case": "echo"}, headers=headers)
    assert not {"server", "set-cookie", "x-internal"} & set(answer.headers)
    got = seen(shared_canned)["headers"]
    assert (got["traceparent"], got["x-request-id"]) == ("00-a-b-01", "id-1")
    assert got["x-onecard-lane"] == "bulk"
    assert 0 < int(got["x-onecard-timeout-ms"]) <= 900  # What is left of it.
    assert not {"cookie", "x-forwarded-for"} & set(got)


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer wrong", f"Basic {KEY}", f"Bearer {KEY}x", KEY])
def test_every_route_but_health_wants_the_key(shared_door: httpx.Client, given: str | None) -> None:
    """No key, a wrong one, a wrong scheme: 401 on every route; health answers anybody."""
    client = httpx.Client(base_url=shared_door.base_url, headers={} if given is None else {"authorization": given})
    for method, path in [("POST", PATH), ("POST", "/generate"), ("GET", "/v1/models"), ("GET", "/metrics")]:
        code = "invalid_api_key" if given and given != "Bearer" else "missing_api_key"
        assert error(client.request(method, path, json={"case": "echo"}), 401)["code"] == code
    assert client.get("/health/live").status_code == 200
    assert client.get("/health/ready").status_code == 200


def test_readiness_tells_the_parts_apart(door: httpx.Client, canned: Server) -> None:
    """Degraded while a part is away, down when all are."""
    ready = door.get("/health/ready")
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
    assert {name: part["status"] for name, part in ready.json()["parts"].items()} == {
        "llm": "ok",
        "sentiment": "down",
        "embedding": "down",
        "review": "down",
        "cache": "ok",
    }
    canned.process.kill()
    canned.process.wait()
    ready = door.get("/health/ready")
    assert (ready.status_code, ready.json()["status"]) == (503, "down")
