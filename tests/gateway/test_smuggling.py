"""Requests that two servers could read in two ways, or that one takes and the other does not, as bytes on a socket.

Each is answered, and what reaches the service is nothing, or the one request that the gateway understood.
"""

import json
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import httpx
import pytest

from gateway.relay import FORWARDED_HEADERS
from tests.gateway.support import PATH, canned_gateway
from tests.protocol.frames import http2_client, literal
from tests.protocol.frames import request as http2_request
from tests.support import KEY, Server, serving

BODY = b'{"case": "echo"}'


@pytest.fixture(scope="module")
def canned() -> Iterator[Server]:
    """The service behind."""
    with serving("tests.scripted_upstream", port_variable="CANNED_PORT", env={}) as server:
        yield server


@pytest.fixture(scope="module")
def door(canned: Server) -> Iterator[Server]:
    """A gateway with a key that gives up slow requests soon."""
    env = {"API_KEY": KEY, "HEADER_TIMEOUT_SECONDS": "2", "BODY_TIMEOUT_SECONDS": "2"}
    with canned_gateway(canned, env) as server:
        yield server


def request(*headers: bytes, line: bytes = b"POST " + PATH.encode() + b" HTTP/1.1", body: bytes = BODY) -> bytes:
    """A request with the key and these headers besides."""
    usual = (b"host: x", b"content-type: application/json", f"authorization: Bearer {KEY}".encode())
    return b"\r\n".join([line, *usual, *headers, b"", b""]) + body


LENGTH = b"content-length: 16"
CHUNKED = b"transfer-encoding: chunked"
HIDDEN = request(LENGTH)
CHUNKS = b"10\r\n" + BODY + b"\r\n0\r\n\r\n"

REFUSED: dict[str, tuple[bytes, int]] = {
    "two lengths": (request(LENGTH, b"content-length: 5"), 400),
    "the same length twice": (request(LENGTH, LENGTH), 400),
    "a list of lengths": (request(b"content-length: 16, 16"), 400),
    "a length with a sign": (request(b"content-length: +16"), 400),
    "a length with letters": (request(b"content-length: 0x10"), 400),
    "a length beyond any number": (request(b"content-length: 99999999999999999999999"), 400),
    "a length and chunks": (request(LENGTH, CHUNKED, body=CHUNKS), 400),
    "chunks and a length": (request(CHUNKED, LENGTH, body=CHUNKS), 400),
    "chunks under another coding": (request(b"transfer-encoding: chunked, identity", body=CHUNKS), 400),
    "an unknown coding": (request(b"transfer-encoding: xchunked", body=CHUNKS), 400),
    "a chunk's size that is no number": (request(CHUNKED, body=b"zz\r\n" + BODY), 400),
    "a chunk's size beyond any number": (request(CHUNKED, body=b"f" * 32 + b"\r\n" + BODY), 400),
    "a space before the colon": (request(b"content-length : 16"), 400),
    "a NUL in a value": (request(LENGTH, b"x-a: a\x00b"), 400),
    "a CR in a value": (request(LENGTH, b"x-a: a\rx-b: b"), 400),
    "a NUL in a name": (request(LENGTH, b"x\x00a: b"), 400),
    "a line without a colon": (request(LENGTH, b"just words"), 400),
    "HTTP/9": (request(LENGTH, line=b"POST " + PATH.encode() + b" HTTP/9.9"), 400),
    "a space in the path": (request(LENGTH, line=b"POST " + PATH.encode() + b" x HTTP/1.1"), 400),
    "two keys": (request(LENGTH, b"authorization: Bearer other"), 401),
    "a key of 2,000 letters": (request(LENGTH).replace(KEY.encode(), b"a" * 2000), 401),
    "1 MB in one header": (request(LENGTH, b"x-a: " + b"a" * 1_000_000), 431),
    "50,000 headers": (request(LENGTH, *(b"x-a%d: b" % number for number in range(50_000))), 431),
    "a path of 1 MB": (request(LENGTH, line=b"POST /" + b"a" * 1_000_000 + b" HTTP/1.1"), 431),
    "less body than announced": (request(b"content-length: 17"), 408),
}


def requests_seen(canned: Server) -> int:
    """How many have reached the service."""
    count: int = httpx.get(f"{canned.url}/seen").json()["requests"]
    return count


def exchange(port: int, sent: bytes) -> list[tuple[int, bytes]]:
    """Status and body of every answer to these bytes, until the gateway closes the connection."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(sent)  # It may answer before it has read everything.
        with suppress(ConnectionResetError):
            while chunk := connection.recv(65536):
                received += chunk
    heads = list(re.finditer(rb"HTTP/1\.1 (\d{3}) [^\r]*\r\n(?:[^\r]+\r\n)*\r\n", received))
    ends = [*(head.start() for head in heads[1:]), len(received)]
    return [(int(head[1]), received[head.end() : end]) for head, end in zip(heads, ends, strict=True)]


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_be_read_in_two_ways_is_refused(door: Server, canned: Server, case: str) -> None:
    """Also when a second request is hidden behind it: one refusal in the one shape, and nothing reaches the service."""
    sent, status = REFUSED[case]
    before = requests_seen(canned)
    answers = exchange(door.port, sent if status == 408 else sent + HIDDEN)
    assert [answered for answered, _ in answers] == [status], "the connection ends with the refusal"
    assert set(json.loads(answers[0][1])["error"]) == {"message", "type", "param", "code"}
    assert requests_seen(canned) == before


def test_what_follows_a_body_is_a_request_of_its_own_and_needs_its_own_key(door: Server, canned: Server) -> None:
    """The first is answered, once; the one behind it, without a key, is not, and ends the connection."""
    before = requests_seen(canned)
    keyless = HIDDEN.replace(KEY.encode(), b"")
    assert [status for status, _ in exchange(door.port, HIDDEN + keyless + HIDDEN)] == [200, 401]
    assert requests_seen(canned) == before + 1


def test_headers_of_one_connection_go_no_further(door: Server, canned: Server) -> None:
    """Neither those that HTTP says so of, nor those that `HttpConnection` names, nor `Expect` or `Upgrade`."""
    hop = (
        b"connection: close, x-foo, authorization",
        b"x-foo: 1",
        b"keep-alive: 5",
        b"te: trailers",
        b"trailer: x-t",
        b"proxy-authorization: Basic a",
        b"upgrade: h2c",
        b"forwarded: for=1.2.3.4",
    )
    assert exchange(door.port, request(LENGTH, *hop))[0][0] == 200
    seen = httpx.get(f"{canned.url}/seen").json()["headers"]
    foreign = {"x-foo", "te", "trailer", "proxy-authorization", "upgrade", "forwarded"}
    assert not foreign & set(seen)
    assert "x-foo" not in seen.get("connection", "")
    assert "x-foo" not in json.dumps(seen)


@pytest.mark.parametrize("path", [f"/v1/../{PATH[1:]}", f"/{PATH}", f"{PATH}/", PATH.upper()])
def test_another_spelling_of_a_path_is_another_path(door: Server, canned: Server, path: str) -> None:
    """No service is asked for what the gateway does not list; a key is wanted all the same."""
    before = requests_seen(canned)
    line = f"POST {path} HTTP/1.1".encode()
    assert exchange(door.port, request(LENGTH, b"connection: close", line=line))[0][0] in (404, 307)
    bare = line + b"\r\nhost: x\r\nconnection: close\r\ncontent-length: 16\r\n\r\n" + BODY
    assert exchange(door.port, bare)[0][0] == 401
    assert requests_seen(canned) == before


def test_a_chunked_body_arrives_whole_and_with_a_length(door: Server, canned: Server) -> None:
    """The gateway reads it to its end and sends it on as it would any other; what trails it goes no further."""
    before = requests_seen(canned)
    body = CHUNKS.removesuffix(b"\r\n") + b"x-onecard-lane: bulk\r\n\r\n"
    answers = exchange(door.port, request(CHUNKED, b"connection: close", body=body))
    assert answers[0][0] == 200
    assert json.loads(answers[0][1]) == json.loads(BODY)
    seen = httpx.get(f"{canned.url}/seen").json()
    assert seen["requests"] == before + 1
    assert seen["headers"]["content-length"] == "16"
    assert not {"transfer-encoding", "x-onecard-lane"} & set(seen["headers"])


CLOSING = b"host: x\r\nconnection: close\r\n"
SUMMARY = b"GET /v1/restaurants/a/summary HTTP/1.1\r\n" + CLOSING

TOO_LONG_FOR_A_SERVICE = {
    "two lines of one header": SUMMARY + (b"accept: " + b"a" * 9_000 + b"\r\n") * 2,
    "headers that are long together": SUMMARY
    + b"".join(name + b": " + b"a" * 13_065 + b"\r\n" for name in sorted(FORWARDED_HEADERS)[:5]),
    "a path that is three times as long when it is encoded anew": b"GET /v1/restaurants/"
    + b"%ff" * 2_000
    + b"/summary HTTP/1.1\r\n"
    + CLOSING,
    "such a query": b"GET /v1/restaurants?sort=" + b"%ff" * 2_000 + b" HTTP/1.1\r\n" + CLOSING,
}


@pytest.fixture(scope="module")
def real_replicas() -> Iterator[Server]:
    """A gateway in front of two replicas that speak what services speak; they have none of its routes."""
    with ExitStack() as stack:
        plain = [
            stack.enter_context(serving("tests.protocol.app", port_variable="PLAIN_PORT", env={})) for _ in range(2)
        ]
        env = {"REVIEW_URL": ",".join(replica.url for replica in plain), "CACHE_ENABLED": "false"}
        yield stack.enter_context(canned_gateway(plain[0], env))


def assert_replicas_well(gateway: Server) -> None:
    """Both are in service, and no attempt has failed."""
    metrics = httpx.get(f"{gateway.url}/metrics").text.splitlines()
    failed = [
        line for line in metrics if line.startswith("onecard_upstream_attempts_total") and 'outcome="error"' in line
    ]
    assert [line for line in failed if not line.endswith(" 0.0")] == []
    assert httpx.get(f"{gateway.url}/health/ready").json()["parts"]["review"]["status"] == "ok"
    assert httpx.get(f"{gateway.url}/v1/restaurants/a/summary").status_code == 404, "as the replicas answer"


@pytest.mark.parametrize("case", TOO_LONG_FOR_A_SERVICE)
def test_what_a_service_would_not_take_is_refused_and_costs_no_replica(real_replicas: Server, case: str) -> None:
    """However often it comes: the service's refusal would look like a failure, and eject one replica after another."""
    for _ in range(4):
        ((status, body),) = exchange(real_replicas.port, TOO_LONG_FOR_A_SERVICE[case] + b"\r\n")
        assert (status, json.loads(body)["error"]["code"]) == (431, "headers_too_large")
    assert_replicas_well(real_replicas)


def test_so_is_a_header_that_is_too_long_for_http_1(real_replicas: Server) -> None:
    """HTTP/2 takes four times as much in one."""
    with http2_client(real_replicas.port) as client:
        for stream in (1, 3, 5, 7):
            accept = literal(b"accept", b"a" * 20_000)
            client.send(http2_request(stream, b"/v1/restaurants/a/summary", accept))
            client.read_until(stream)
            assert client.status(stream) == 431
    assert_replicas_well(real_replicas)
