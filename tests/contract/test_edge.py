"""The edge of every service, through sockets: who gets in, under which name, by which path and method."""

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from pydantic import SecretStr
from starlette.types import Message, Scope

from onecard.settings import ServiceSettings
from onecard.web.auth import KeyGuard
from onecard.web.middleware import RequestMiddleware
from tests.shared.cache.support import RedisProcess
from tests.support import KEY, Server, serving

STRANGE = (
    "evil.example",
    "127.0.0.1.evil.example",
    "localhost.evil.example:8000",
    "[127.0.0.1]evil.example",
    "",
    "[::1",
)
OWN = ("localhost", "LOCALHOST:80", "127.0.0.1:8000", "[::1]:8000", "10.0.0.7", "x")
"""As a browser sends them; tests' servers allow the name x."""


@dataclass(frozen=True)
class ServiceUnderTest:
    """A running service, and the headers that it lets in."""

    server: Server
    keyed: bool
    gateway: bool = False

    def ask(self, method: str, path: str, **headers: str) -> httpx.Response:
        given = {"authorization": f"Bearer {KEY}"} if self.keyed else {}
        return httpx.request(method, self.server.url + path, headers=given | headers, timeout=30)


@pytest.fixture(scope="module")
def review(
    sentiment: Server, embedding: Server, session_redis: RedisProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A review service without an LLM service."""
    urls = {"SENTIMENT_URL": sentiment.url, "EMBEDDING_URL": embedding.url}
    env = {**urls, "REDIS_PORT": str(session_redis.port), "REVIEW_STORE": str(tmp_path_factory.mktemp("reviews"))}
    with serving("review_service", port_variable="REVIEW_PORT", env=env) as server:
        yield server


@pytest.fixture(scope="module")
def open_gateway(review: Server) -> Iterator[Server]:
    """A gateway without a key, in front of it."""
    with serving(
        "gateway", port_variable="GATEWAY_PORT", env={"REVIEW_URL": review.url, "CACHE_ENABLED": "false"}
    ) as one:
        yield one


@pytest.fixture(scope="module")
def keyed_gateway(review: Server) -> Iterator[Server]:
    """A gateway with one."""
    env = {"REVIEW_URL": review.url, "CACHE_ENABLED": "false", "API_KEY": KEY}
    with serving("gateway", port_variable="GATEWAY_PORT", env=env) as server:
        yield server


@pytest.fixture(
    scope="module", params=["sentiment", "embedding", "review", "open_gateway", "keyed_gateway", "transformers"]
)
def door(request: pytest.FixtureRequest) -> ServiceUnderTest:
    """Each service; vLLM has these tests in a suite of its own."""
    name: str = request.param
    return ServiceUnderTest(
        request.getfixturevalue(name), keyed=name in ("keyed_gateway", "transformers"), gateway="gateway" in name
    )


def refused(answer: httpx.Response, status: int) -> dict[str, str]:
    """The error in the one shape, which is no redirect."""
    assert (answer.status_code, answer.headers.get("location")) == (status, None), answer.text
    assert answer.headers["x-request-id"]
    error: dict[str, str] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def exchange(port: int, sent: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to these bytes, after which the connection is closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(sent)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(first.split()[1]), headers, body


def test_no_websocket_gets_in(door: ServiceUnderTest) -> None:
    """Neither with a key nor without."""
    upgrade = b"upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    for key in (b"", f"authorization: Bearer {KEY}\r\n".encode()):
        head = b"GET /v1/realtime HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade, close\r\n" + upgrade + key
        status, _, body = exchange(door.server.port, head + b"\r\n")
        assert status in (401, 404)
        assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "path", ["/health", "/health/live", "/health/ready", "/v1/models", "/openapi.json", "/metrics"]
)
def test_head_is_get_without_the_body(door: ServiceUnderTest, path: str) -> None:
    """Load balancers ask so; the connection is of use afterwards."""
    line = f" {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {KEY}\r\n".encode()
    status, headers, body = exchange(door.server.port, b"HEAD" + line + b"connection: close\r\n\r\n")
    got = door.ask("GET", path)
    assert (status, body) == (got.status_code, b"")
    assert headers["content-type"] == got.headers["content-type"]
    both = b"HEAD" + line + b"\r\nGET /health/live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    assert exchange(door.server.port, both)[2].endswith(b'{"status":"ok"}')


def test_health_is_readiness(door: ServiceUnderTest) -> None:
    """What asks for /health, such as guidellm, wants to know whether it may begin; nobody needs a key."""
    answer = httpx.get(door.server.url + "/health")
    assert answer.status_code == 200
    assert answer.json() == httpx.get(door.server.url + "/health/ready?verbose").json() or door.gateway


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_a_body_for_a_path_without_a_key_is_refused_unread(door: ServiceUnderTest, path: str, method: str) -> None:
    """Anyone may send it, so no memory is spent on it; the connection ends with the refusal."""
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\n"
    status, headers, body = exchange(door.server.port, head.encode())
    assert (status, headers["allow"], headers["connection"]) == (405, "get, head", "close")
    assert json.loads(body)["error"]["code"] == "method_not_allowed"


def test_a_slash_too_many_is_a_404(door: ServiceUnderTest) -> None:
    """A redirect would lead to plain HTTP, at an address that only we can see."""
    for path in ("/health/", "/health/live/", "/openapi.json/", "/v1/restaurants/"):
        refused(door.ask("GET", path), 404)
    for path in ("/v1/embeddings/", "/v1/sentiment/", "/v1/reviews/", "/v1/chat/completions/", "/generate/"):
        refused(door.ask("POST", path), 404)


@pytest.mark.parametrize("path", ["/health/live", "/v1/models", "/metrics"])
def test_without_a_key_only_who_asks_for_this_machine_is_answered(door: ServiceUnderTest, path: str) -> None:
    """A page whose own host name points here is not. With a key the key decides."""
    for host in STRANGE:
        answer = door.ask("GET", path, host=host)
        if door.keyed:
            assert answer.status_code != 421
        else:
            assert refused(answer, 421)["code"] == "unknown_host"
            assert "ALLOWED_HOSTS" in answer.text
    for host in OWN:
        assert door.ask("GET", path, host=host).status_code == door.ask("GET", path).status_code != 421


def test_no_key_and_a_wrong_one_are_told_apart(door: ServiceUnderTest) -> None:
    """Each says what to do."""
    if not door.keyed:
        assert door.ask("GET", "/v1/models").status_code != 401
        return
    for authorization in ({}, {"authorization": "Bearer"}, {"authorization": ""}):
        answer = httpx.get(door.server.url + "/v1/models", headers=authorization)
        error = refused(answer, 401)
        assert error["code"] == "missing_api_key"
        assert "Authorization: Bearer" in error["message"]
        assert answer.headers["www-authenticate"] == "Bearer"
    for authorization in ("Bearer wrong-wrong-wrong-wrong", "Basic dTpw", "Bearer " + "a" * 2000):
        error = refused(door.ask("GET", "/v1/models", authorization=authorization), 401)
        assert error["code"] == "invalid_api_key"
        assert "No API key" not in error["message"]


def test_an_unknown_query_parameter_is_named(door: ServiceUnderTest) -> None:
    """With the nearest one that there is; a known one with a wrong value is named, too."""
    error = refused(door.ask("GET", "/health/live?limt=1"), 400)
    assert error["param"] == "limt"
    error = refused(door.ask("GET", "/health/ready?verbos=1"), 400)
    assert error["param"] == "verbos"
    assert "'verbose'" in error["message"]
    assert door.ask("GET", "/health/ready?verbose").status_code == 200
    long = refused(door.ask("GET", "/health/ready?" + "%41" * 5000), 400)
    assert len(long["param"]) <= 64


@pytest.mark.parametrize("name", ["review", "open_gateway"])
def test_a_parameter_is_called_by_its_name(name: str, request: pytest.FixtureRequest) -> None:
    """Not by the place where it was found; a relayed route's is checked before anybody is asked."""
    door = ServiceUnderTest(request.getfixturevalue(name), keyed=False)
    assert door.ask("GET", "/v1/restaurants?limit=3&sort=reviews").status_code == 200
    for query, param in (("limt=3", "limt"), ("limit=0", "limit"), ("limit=3&sort=best", "sort"), ("limit=a", "limit")):
        error = refused(door.ask("GET", f"/v1/restaurants?{query}"), 400)
        assert (error["param"], f"'{param}'" in error["message"]) == (param, True)
    assert "'limit'" in refused(door.ask("GET", "/v1/restaurants?limt=3"), 400)["message"]
    bad = httpx.post(door.server.url + "/v1/reviews/search", json={"query": 5}, timeout=30)
    assert refused(bad, 400)["param"] == "query"
    assert refused(door.ask("DELETE", "/v1/reviews/a%20b"), 400)["param"] == "review_id"
    assert refused(door.ask("DELETE", "/v1/reviews/a?force=1"), 400)["param"] == "force"


@pytest.mark.parametrize("extensions", [{}, {"websocket.http.response": {}}])
async def test_a_websocket_reaches_no_app(extensions: dict[str, object]) -> None:
    """Whatever the server in front makes of the refusal."""
    reached: list[str] = []
    sent: list[Message] = []

    async def app(scope: Scope, *_: object) -> None:
        reached.append(scope["type"])

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    guard = KeyGuard(SecretStr(KEY))
    edge = RequestMiddleware(app, settings=ServiceSettings(), metrics=None, json_bodies=True, guard=guard)
    await edge({"type": "websocket", "path": "/v1/realtime", "headers": [], "extensions": extensions}, receive, send)
    assert reached == []
    assert sent[0]["type"] == ("websocket.http.response.start" if extensions else "websocket.close")
