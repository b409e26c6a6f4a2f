"""HTTP/2's own attacks: each ends, or is bounded, and other clients are served meanwhile."""

import itertools
import time
from collections.abc import Callable

import httpx
import psutil
import pytest

from tests.protocol.attacks import MAX_WAIT_SECONDS
from tests.protocol.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    ENHANCE_YOUR_CALM,
    HEADERS,
    INITIAL_WINDOW,
    PING,
    PRIORITY,
    SETTINGS,
    Http2Client,
    frame,
    http2_client,
    literal,
    request,
    reset,
    setting,
    window,
)
from tests.support import Server

SECONDS = 15.0
GROWTH_BYTES = 60_000_000
_BIG = b"\x40\x01x\x7f" + bytes([(4000 - 127) & 127 | 128, (4000 - 127) >> 7]) + b"a" * 4000
"""A header that enters the table, and fills it."""


def _bomb(number: int) -> bytes:
    if number == 0:
        return request(1, b"/health/live", _BIG)
    return frame(HEADERS, END_HEADERS | 1, 2 * number + 1, b"\x82\x84\x86\x41\x01x" + b"\xbe" * 16000)


def _headers(path: bytes, *, flags: int) -> bytes:
    """A request's head with these flags."""
    return frame(HEADERS, flags, 1, b"\x83\x86\x41\x01x" + literal(b":path", path))


FLOODS: dict[str, Callable[[int], bytes]] = {
    "rapid resets": lambda n: request(2 * n + 1, b"/slow?seconds=1", method=b"POST") + reset(2 * n + 1),
    "endless CONTINUATION": lambda n: frame(CONTINUATION, 0, 1, b"\0\1a\1b" * 3000) if n else _headers(b"/", flags=1),
    "empty CONTINUATION": lambda n: frame(CONTINUATION, 0, 1) * 5000 if n else _headers(b"/", flags=1),
    "a bomb in HPACK": _bomb,
    "a header of a megabyte": lambda n: request(2 * n + 1, b"/", literal(b"x-a", b"a" * 1_000_000)),
    "ten thousand headers": lambda n: request(2 * n + 1, b"/", literal(b"x-a", b"a") * 3000),
    "PING": lambda n: frame(PING, 0, 0, b"12345678") * 3000,
    "SETTINGS": lambda n: frame(SETTINGS, 0, 0) * 5000,
    "large SETTINGS": lambda n: setting(INITIAL_WINDOW, n) * 3000,
    "resets of streams that never were": lambda n: reset(2 * n + 1) * 3000,
    "DATA on no stream": lambda n: frame(DATA, 0, 1, b"a" * 16000),
    "tiny DATA": lambda n: frame(DATA, 0, 1, b"a") * 5000 if n else _headers(b"/echo", flags=END_HEADERS),
    "a frame of 16 MB": lambda n: b"\xff\xff\xff\0\0\0\0\0\1" + b"a" * 65536,
    "not HTTP/2 after the preface": lambda n: b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 1000,
}
"""Name → the bytes of each step; the server ends the connection."""
HARMLESS: dict[str, Callable[[int], bytes]] = {
    "PRIORITY": lambda n: frame(PRIORITY, 0, 1, b"\0\0\0\0\0") * 5000,
    "unknown frames": lambda n: frame(0x77, 0, 1, b"") * 5000,
    "empty DATA": lambda n: frame(DATA, 0, 1) * 5000 if n else _headers(b"/echo", flags=END_HEADERS),
    "windows by the byte": lambda n: window(0, 1) * 5000,
    "more streams than are allowed": lambda n: request(2 * n + 1, b"/slow?seconds=9", method=b"POST"),
}
"""What may go on for as long as a connection may be idle: nobody else notices."""


def pour(server: Server, step: Callable[[int], bytes], seconds: float) -> bool:
    """Send all steps, reading what is answered, while another client asks for something. Returns whether the server
    ended the connection."""
    deadline, asked = time.monotonic() + seconds, 0.0
    with http2_client(server.port) as client, httpx.Client(base_url=server.url, timeout=30) as other:
        for number in itertools.count():
            try:
                client.connection.settimeout(seconds)
                client.send(step(number))
                client.connection.settimeout(0.001)
                client.connection.recv(1_000_000)
            except TimeoutError:
                pass
            except OSError:
                client.closed = True
            if time.monotonic() - asked > 0.2:
                asked = time.monotonic()
                assert other.get("/health/live").status_code == 200
                assert time.monotonic() - asked < MAX_WAIT_SECONDS
            if client.closed or time.monotonic() > deadline:
                return client.closed
    raise AssertionError("unreachable")


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_ended_and_delays_nobody(plain: Server, name: str) -> None:
    """And leaves nothing behind."""
    before = psutil.Process(plain.process.pid).memory_info().rss
    assert pour(plain, FLOODS[name], SECONDS)
    assert psutil.Process(plain.process.pid).memory_info().rss - before < GROWTH_BYTES
    assert "Traceback" not in plain.log()


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_not_ended_at_once_delays_nobody_and_takes_no_memory(plain: Server, name: str) -> None:
    """It ends with the time of an idle connection."""
    before = psutil.Process(plain.process.pid).memory_info().rss
    pour(plain, HARMLESS[name], 3)
    assert psutil.Process(plain.process.pid).memory_info().rss - before < GROWTH_BYTES


@pytest.mark.parametrize("name", ["PRIORITY", "unknown frames", "windows by the byte"])
def test_no_connection_is_kept_by_frames_that_ask_for_nothing(hasty: Server, name: str) -> None:
    """The time for a first request runs on."""
    assert pour(hasty, HARMLESS[name], SECONDS)


def test_what_nobody_reads_does_not_fill_the_memory(hasty: Server) -> None:
    """The windows are wide open, and the client takes nothing and goes on sending: the server stops reading, too, and
    then ends the connection."""
    before = psutil.Process(hasty.process.pid).memory_info().rss
    with http2_client(hasty.port) as client:
        client.connection.settimeout(30)
        client.send(request(1, b"/endless"), window(0, 2**30), window(1, 2**30))
        with pytest.raises(ConnectionError):
            send_for_ever(client, frame(PRIORITY, 0, 1, b"\0\0\0\0\0") * 1000)
    assert psutil.Process(hasty.process.pid).memory_info().rss - before < GROWTH_BYTES


def send_for_ever(client: Http2Client, frames: bytes) -> None:
    """Without reading."""
    while True:
        client.send(frames)


def test_a_client_that_cancels_often_is_sent_elsewhere_without_loss(plain: Server) -> None:
    """After 100 cancelled streams: what is under way is answered, and only then does the connection end."""
    with http2_client(plain.port) as client:
        client.send(request(1, b"/slow?seconds=1", method=b"POST"))
        for stream in range(3, 203, 2):
            client.send(request(stream, b"/slow?seconds=9", method=b"POST"), reset(stream))
        client.send(request(203, b"/health/live"))
        client.read_until()
        assert client.goaway == 0
        assert client.status(1) == 200
        assert 203 not in client.heads


def test_the_parser_says_why_it_ends_a_connection(plain: Server) -> None:
    """GOAWAY with ENHANCE_YOUR_CALM."""
    with http2_client(plain.port) as client:
        client.send(_headers(b"/", flags=1), frame(CONTINUATION, 0, 1) * 100)
        client.read_until()
        assert client.goaway == ENHANCE_YOUR_CALM


def test_streams_beyond_the_limit_are_refused_and_the_others_answered(plain: Server) -> None:
    """128 at a time."""
    streams = range(1, 301, 2)
    with http2_client(plain.port) as client:
        client.send(*(request(stream, b"/slow?seconds=1", method=b"POST") for stream in streams))
        client.read_until(*streams)
        answered = [stream for stream in streams if stream in client.heads]
        assert len(answered) == 128
        assert {client.status(stream) for stream in answered} == {200}
        assert set(client.resets.values()) == {7}


def test_an_answer_is_as_long_as_the_windows_allow_and_comes_whole(plain: Server) -> None:
    """In steps of a kilobyte, on two streams; one that is shut delays the other by nothing."""
    size = 200_000
    with http2_client(plain.port, setting(INITIAL_WINDOW, 1000)) as client:
        client.send(request(1, b"/big?size=%d" % size), request(3, b"/big?size=%d" % size), window(0, 2**30))
        while len(client.body.get(3, b"")) < size:
            client.read()
            client.send(window(3, 10_000))
        client.read_until(3)
        assert len(client.body.get(1, b"")) == 1000
        client.send(window(1, size))
        client.read_until(1)
        assert client.body == {1: b"a" * size, 3: b"a" * size}


def test_a_body_nobody_waits_for_is_stopped(plain: Server) -> None:
    """The answer to a GET comes before its body ends: the stream is reset without an error, and the others go on."""
    with http2_client(plain.port) as client:
        client.send(_headers(b"/health/live", flags=END_HEADERS).replace(b"\x83", b"\x82", 1), frame(DATA, 0, 1, b"a"))
        client.read_until(1)
        client.send(request(3, b"/health/live"))
        client.read_until(3)
        assert (client.status(1), client.status(3)) == (200, 200)
        assert client.resets == {1: 0}


def test_a_server_that_stops_answers_what_is_under_way(own: Server) -> None:
    """SIGTERM: GOAWAY at once; new streams are refused, to be sent elsewhere, and the old ones are answered."""
    with http2_client(own.port) as client:
        client.send(request(1, b"/slow?seconds=2", method=b"POST"), frame(SETTINGS, ACK, 0))
        client.send(frame(PING, 0, 0, b"arrived?"))
        while not client.pongs:
            client.read()
        own.process.terminate()
        while client.goaway is None:
            client.read()
        client.send(request(3, b"/health/live"))
        client.read_until()
        assert client.status(1) == 200
        assert client.resets == {3: 7}
    own.process.wait(30)
