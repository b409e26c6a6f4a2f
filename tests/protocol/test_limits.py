"""How many connections there may be, and whose word about the client is taken."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from onecard import settings
from onecard.protocol.limits import ConnectionLimits
from tests.protocol.attacks import exchange
from tests.support import Server, metric, serving

MAX_CONNECTIONS = 20


@pytest.fixture(scope="module")
def narrow() -> Iterator[Server]:
    """With room for a few, behind a proxy in this machine's network."""
    env = {"MAX_CONNECTIONS": str(MAX_CONNECTIONS), "TRUSTED_PROXIES": "127.0.0.0/8, 10.1.2.3"}
    with serving("tests.protocol.app", port_variable="PLAIN_PORT", env=env) as server:
        yield server


def open_until_full(server: Server, stack: ExitStack, count: int) -> list[socket.socket]:
    """So many idle connections."""
    address = ("127.0.0.1", server.port)
    return [stack.enter_context(socket.create_connection(address, timeout=30)) for _ in range(count)]


def test_a_connection_too_many_is_told_so_and_the_others_work(narrow: Server) -> None:
    """With 503 in the one shape; a flood of them is closed without a word, and room that is made is used."""
    with ExitStack() as stack:
        mine = open_until_full(narrow, stack, MAX_CONNECTIONS)
        mine[-1].sendall(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        assert mine[-1].recv(1000).startswith(b"HTTP/1.1 200")
        answer = exchange(narrow.port, b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 5" in head
        assert json.loads(body)["error"]["code"] == "unavailable"
        told = [read_to_end(one) for one in open_until_full(narrow, stack, 300)]
        assert all(one is None or one == b"" or one.startswith(b"HTTP/1.1 503") for one in told)
        assert None in told or b"" in told
        mine[-1].sendall(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        assert mine[-1].recv(1000).startswith(b"HTTP/1.1 200")
    assert httpx.get(narrow.url + "/health/live").status_code == 200
    assert metric(narrow, "onecard_http_connections_refused_total") >= 301
    assert 1 <= metric(narrow, "onecard_http_connections") <= MAX_CONNECTIONS


def read_to_end(connection: socket.socket) -> bytes | None:
    """What came, or None if the connection was reset."""
    try:
        return connection.makefile("rb").read()
    except ConnectionResetError:
        return None


def test_a_process_with_few_files_takes_fewer_connections() -> None:
    """Half of its files: a connection that is relayed needs two."""
    limits = settings.ServiceSettings(max_connections=10_000)
    assert ConnectionLimits.from_settings(limits, max_open_files=-1).max_connections == 10_000
    assert ConnectionLimits.from_settings(limits, max_open_files=1024).max_connections == 512
    assert ConnectionLimits.from_settings(limits, max_open_files=65_536).max_connections == 10_000


def who(server: Server, **headers: str) -> tuple[str, str]:
    """The client and the scheme that the app sees."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    answer: dict[str, Any] = httpx.post(server.url + "/echo", headers=given).json()
    return answer["client"], answer["scheme"]


def test_a_trusted_proxy_says_who_the_client_is(narrow: Server) -> None:
    """The last address that is no proxy of ours: what stands before it may have been made up by the client."""
    assert who(narrow, x_forwarded_for="6.6.6.6, 203.0.113.7, 10.1.2.3", x_forwarded_proto="https") == (
        "203.0.113.7",
        "https",
    )
    assert who(narrow, x_forwarded_proto="gopher") == ("127.0.0.1", "http")
    assert who(narrow) == ("127.0.0.1", "http")


def test_without_a_list_nobody_is_believed(plain: Server) -> None:
    """The default, for callers on this machine, too."""
    assert who(plain, x_forwarded_for="203.0.113.7", x_forwarded_proto="https") == ("127.0.0.1", "http")


@pytest.mark.parametrize("wrong", ["proxy.example", "10.0.0.1/8", "10.0.0.0/40", "*"])
def test_a_proxy_that_is_no_address_stops_the_start(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    """With one line that names the variable."""
    monkeypatch.setenv("TRUSTED_PROXIES", wrong)
    with pytest.raises(SystemExit, match="TRUSTED_PROXIES"):
        settings.load(settings.ServiceSettings)
