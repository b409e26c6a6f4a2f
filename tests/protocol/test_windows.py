"""HTTP/2 clients that lower their windows below zero, as RFC 9113 allows (6.9.2): they slow nothing but their own
streams, and get what the windows allow, not more."""

import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.gateway.support import PATH, canned_gateway
from tests.protocol.attacks import MAX_WAIT_SECONDS
from tests.protocol.frames import INITIAL_WINDOW, Http2Client, http2_client, literal, setting, window
from tests.protocol.frames import request as ask
from tests.support import Server, serving

SECONDS = 15.0
"""Far more than any answer here takes."""
JSON = literal(b"content-type", b"application/json")


def read_while(client: Http2Client, holds: Callable[[], bool]) -> None:
    """Read frames; fail if it goes on for long."""
    deadline = time.monotonic() + SECONDS
    while holds():
        assert time.monotonic() < deadline, f"came: { {stream: len(body) for stream, body in client.body.items()} }"
        client.read()


def read_exactly(client: Http2Client, stream: int, size: int) -> None:
    """Read until this much of a body has come. What comes in excess is noticed by the next call."""
    read_while(client, lambda: len(client.body.get(stream, b"")) != size)


def assert_serves(server: Server) -> None:
    """It answers somebody else."""
    assert httpx.get(server.url + "/health/live", timeout=MAX_WAIT_SECONDS).status_code == 200


@pytest.fixture(scope="module")
def canned() -> Iterator[Server]:
    """An LLM service whose stream waits for the test after its first event."""
    with serving("tests.scripted_upstream", port_variable="CANNED_PORT", env={}) as server:
        yield server


@pytest.fixture(scope="module")
def streaming(canned: Server) -> Iterator[Server]:
    """A gateway in front of it, without keys."""
    with canned_gateway(canned, {"CACHE_ENABLED": "false"}) as server:
        yield server


@pytest.mark.parametrize("service", ["plain", "keyed", "sentiment", "embedding", "review", "transformers"])
def test_a_window_below_zero_at_the_end_of_an_answer_delays_nobody(
    request: pytest.FixtureRequest, service: str
) -> None:
    """All of the answer has come when the window is lowered below zero, in the same packet; without a key."""
    server: Server = request.getfixturevalue(service)
    with http2_client(server.port) as client:
        client.send(ask(1, b"/health/live"))
        client.read_until(1, seconds=SECONDS)
        size = len(client.body[1])
        client.send(setting(INITIAL_WINDOW, 5), ask(3, b"/health/live"))
        read_exactly(client, 3, 5)
        client.send(window(3, size - 5), setting(INITIAL_WINDOW, 0))
        client.read_until(3, seconds=SECONDS)
        assert client.body[3] == client.body[1]
        assert 3 in client.ended
    assert_serves(server)


def test_a_window_below_zero_in_the_middle_of_a_stream_delays_nobody(streaming: Server, canned: Server) -> None:
    """The gateway goes on with the stream, and sends on when the window is open again."""
    event = "x" * 292
    told = b'{"case": "say", "stream": true, "wait": true, "events": ["%s", "1", "2"]}' % event.encode()
    with http2_client(streaming.port, setting(INITIAL_WINDOW, 100)) as client:
        client.send(ask(1, PATH.encode(), JSON, method=b"POST", body=told))
        read_exactly(client, 1, 100)
        client.send(window(1, 200), setting(INITIAL_WINDOW, 0))
        read_exactly(client, 1, 300)
        httpx.post(canned.url + "/open").raise_for_status()
        assert_serves(streaming)
        client.send(ask(3, b"/health/live"), window(3, 1000))
        client.read_until(3, seconds=SECONDS)
        read_exactly(client, 1, 300)
        client.send(setting(INITIAL_WINDOW, 1000))
        client.read_until(1, seconds=SECONDS)
        assert client.body[1] == f"data: {event}\n\ndata: 1\n\ndata: 2\n\n".encode()
        assert 1 in client.ended


def test_an_endless_answer_waits_while_its_window_is_below_zero(plain: Server) -> None:
    """Though less of it is buffered than may be, so that the service goes on with it."""
    with http2_client(plain.port, setting(INITIAL_WINDOW, 1000)) as client:
        client.send(ask(1, b"/endless"), window(0, 2**30))
        read_exactly(client, 1, 1000)
        client.send(window(1, 70_000), setting(INITIAL_WINDOW, 0))
        read_exactly(client, 1, 71_000)
        assert_serves(plain)
        client.send(window(1, 1000), setting(INITIAL_WINDOW, 10))
        read_exactly(client, 1, 71_010)


def test_a_window_that_goes_up_and_down_is_kept_to(plain: Server) -> None:
    """By the byte, at every step, and the whole answer comes in the end."""
    size, sent, granted = 300_000, 0, 0
    with http2_client(plain.port, setting(INITIAL_WINDOW, 0)) as client:
        client.send(ask(1, b"/big?size=%d" % size), window(0, 2**30))
        steps = [(10, 5), (0, 1), (50_000, 0), (7, 20_000), (0, 9), (0, 60_000), (65_535, 0), (0, 65_000), (1, 100_000)]
        for initial, more in steps:
            client.send(setting(INITIAL_WINDOW, initial), *([window(1, more)] if more else []))
            granted += more
            sent = max(sent, initial + granted)
            read_exactly(client, 1, sent)
            assert_serves(plain)
        assert sent < size
        client.send(window(1, size))
        client.read_until(1, seconds=SECONDS)
        assert client.body[1] == b"a" * size


def test_an_answer_to_head_needs_no_window(plain: Server) -> None:
    """Beside a stream whose window is below zero."""
    with http2_client(plain.port, setting(INITIAL_WINDOW, 1000)) as client:
        client.send(ask(1, b"/big?size=200000"), window(0, 2**30))
        read_exactly(client, 1, 1000)
        client.send(window(1, 500), setting(INITIAL_WINDOW, 0))
        client.send(ask(3, b"/big?size=200000", method=b"HEAD"), ask(5, b"/health/live", method=b"HEAD"))
        client.read_until(3, 5, seconds=SECONDS)
        assert client.status(3) == 200
        assert (client.body.get(3, b""), client.body.get(5, b"")) == (b"", b"")
        assert {3, 5} <= client.ended
        read_exactly(client, 1, 1500)
        client.send(window(1, 200_000))
        client.read_until(1, seconds=SECONDS)
        assert client.body[1] == b"a" * 200_000
    assert_serves(plain)


def test_the_end_of_a_short_stream_waits_for_its_client(hasty: Server) -> None:
    """Whose window stays shut: it is given up, and does not seem to be answered."""
    with http2_client(hasty.port, setting(INITIAL_WINDOW, 1)) as client:
        client.send(ask(1, b"/three"))
        client.read_until(1, seconds=SECONDS)
        assert 1 in client.resets
        assert client.body[1] == b"0"
