"""What hostile clients do to a server, as bytes on sockets; the same for every service's port."""

import socket
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

HANG_SECONDS = 30.0
"""Far beyond every time limit that the servers under attack have: who is still connected then has got through."""
FLOOD_SECONDS = 20.0
"""A flood ends in far less on an idle machine; this one is shared."""
MAX_WAIT_SECONDS = 10.0
"""Most that another client may wait meanwhile: a frozen event loop costs more, a busy machine less."""

_CHUNKED = b" HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
FLOODS: dict[str, tuple[bytes, bytes]] = {
    "one endless trailer": (b"GET /health/live" + _CHUNKED + b"0\r\nX-A: ", b"a" * 65536),
    "one endless trailer behind a body": (b"POST /health/live" + _CHUNKED + b"2\r\n{}\r\n0\r\nx-t: ", b"a" * 65536),
    "endless trailers": (b"POST /health/live" + _CHUNKED + b"0\r\n", b"X-A: b\r\n" * 8192),
    "endless head": (b"GET / HTTP/1.1\r\nhost: x\r\nX-A: ", b"a" * 65536),
    "endless headers": (b"GET / HTTP/1.1\r\nhost: x\r\n", b"x-a: b\r\n" * 8192),
    "an endless path": (b"GET /", b"a" * 65536),
    "endless chunk extension": (b"POST /health/live" + _CHUNKED + b"5;a=", b"a" * 65536),
    "endless chunk extensions": (b"POST /health/live" + _CHUNKED, b"1;a=%s\r\na\r\n" % (b"b" * 50) * 1000),
    "endless tiny chunks": (b"POST /health/live" + _CHUNKED, b"1\r\na\r\n" * 10922),
    "endless empty lines": (b"", b"\r\n" * 32768),
}
"""Name → what is sent first, and what is sent for ever."""

_WHOLE = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"
SLOW_SENDERS: dict[str, tuple[bytes, bytes]] = {
    "nothing": (b"", b""),
    "half a head": (b"GET / HTTP/1.1\r\nhost: x\r\nx-a: ", b"a"),
    "half a head behind a whole request": (_WHOLE + b"GET / HTTP/1.1\r\nx-a: ", b"a"),
    "empty lines behind a whole request": (_WHOLE, b"\r\n"),
    "the body of a POST": (b"POST /health/live HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n", b"a"),
    "the body of a GET": (b"GET /health/live HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n", b"a"),
    "half of HTTP/2's preface": (b"PRI * HTTP/2.0\r\n", b""),
    "HTTP/2's preface alone": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b""),
}
"""Name → what is sent first, and what is sent every fifth of a second."""


@dataclass
class FloodOutcome:
    """How a flood went."""

    sent: int = 0
    ended: bool = False
    """The server has ended it."""
    waits: list[float] = field(default_factory=list)
    """Seconds that each request of another client took meanwhile."""


def flood(port: int, head: bytes, piece: bytes, seconds: float = FLOOD_SECONDS) -> FloodOutcome:
    """Send `piece` for ever, while another client asks for something."""
    outcome = FloodOutcome()

    def pour() -> None:
        deadline = time.monotonic() + seconds
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.settimeout(seconds)
            try:
                connection.sendall(head)
                while time.monotonic() < deadline:
                    connection.sendall(piece)
                    outcome.sent += len(piece)
            except TimeoutError:
                pass
            except OSError:
                outcome.ended = True

    pouring = threading.Thread(target=pour)
    pouring.start()
    while True:
        begun = time.monotonic()
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health/live", timeout=HANG_SECONDS).read()
        outcome.waits.append(time.monotonic() - begun)
        if not pouring.is_alive():
            return outcome
        pouring.join(0.05)


def assert_floods_end(port: int, name: str) -> None:
    """The server ends this one, and answers everybody else meanwhile."""
    outcome = flood(port, *FLOODS[name])
    assert outcome.ended, f"took {outcome.sent / 1e6:.0f} MB and more"
    assert max(outcome.waits) < MAX_WAIT_SECONDS


def send_slowly(port: int, first: bytes, then: bytes) -> bytes | None:
    """Send slowly until the server ends the connection: what it has answered; None if it never ends it."""
    received = b""
    deadline = time.monotonic() + HANG_SECONDS
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(0.2)
        try:
            connection.sendall(first)
            while time.monotonic() < deadline:
                try:
                    piece = connection.recv(65536)
                    if not piece:
                        return received
                    received += piece
                except TimeoutError:
                    connection.sendall(then)
        except OSError:
            return received
    return None


def assert_slow_senders_end(port: int) -> None:
    """All of them at the same time."""
    with ThreadPoolExecutor(len(SLOW_SENDERS)) as pool:
        outcomes = dict(
            zip(SLOW_SENDERS, pool.map(lambda case: send_slowly(port, *case), SLOW_SENDERS.values()), strict=True)
        )
    assert [name for name, received in outcomes.items() if received is None] == []


def exchange(port: int, *sent: bytes, pause: float = 0.1) -> bytes:
    """All that is answered to these bytes, sent one after the other, until the server ends the connection."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=HANG_SECONDS) as connection:
        for number, part in enumerate(sent):
            time.sleep(pause if number else 0)
            connection.sendall(part)
        try:
            while piece := connection.recv(65536):
                received += piece
        except ConnectionResetError:
            pass
    return received
