"""Clients that are slow on purpose."""

import json
import signal
import socket
import time

import httpx
import psutil
import pytest

from tests.protocol.attacks import SLOW_SENDERS, exchange, send_slowly
from tests.protocol.frames import INITIAL_WINDOW, http2_client, request, setting
from tests.support import Server


@pytest.mark.parametrize("name", SLOW_SENDERS)
def test_nobody_keeps_a_connection_by_dripping(hasty: Server, name: str) -> None:
    """Each ends, whatever is sent every fifth of a second."""
    assert send_slowly(hasty.port, *SLOW_SENDERS[name]) is not None


@pytest.mark.parametrize("name", ["half a head", "half a head behind a whole request", "nothing"])
def test_a_head_that_does_not_come_is_a_408(hasty: Server, name: str) -> None:
    """In the one shape; and behind a whole request the first answer comes as ever."""
    answered = send_slowly(hasty.port, *SLOW_SENDERS[name])
    assert answered is not None
    first, _, last = answered.rpartition(b"HTTP/1.1 408")
    assert first.count(b"HTTP/1.1 200") == ("whole" in name)
    assert json.loads(last.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"


@pytest.mark.parametrize("size", [1_000, 100_000, 200_000])
def test_the_beginning_of_the_next_request_costs_the_first_nothing(plain: Server, size: int) -> None:
    """However long the body before it is: the server, which has been held meanwhile, gets it all at once."""
    one = b"POST /slow?seconds=0.3 HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size
    two = b"POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}"
    with socket.create_connection(("127.0.0.1", plain.port), timeout=30) as connection:
        plain.process.send_signal(signal.SIGSTOP)
        try:
            connection.sendall(one + two[:30])
        finally:
            plain.process.send_signal(signal.SIGCONT)
        time.sleep(0.1)
        connection.sendall(two[30:])
        answers = connection.makefile("rb").read()
    assert answers.count(b"HTTP/1.1 200") == 2
    assert answers.index(b"slept") < answers.index(b'"bytes":2,')


def test_requests_behind_a_slow_one_wait_with_the_client(plain: Server) -> None:
    """They are answered in their order, and what is beyond 64 KiB is not taken meanwhile."""
    slow = b"POST /slow?seconds=0.5 HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
    more = b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello"
    last = more.replace(b"host: x", b"host: x\r\nconnection: close")
    answers = exchange(plain.port, slow, more * 3000 + last)
    assert answers.count(b"HTTP/1.1 200") == 3002
    assert answers.index(b"slept") < answers.index(b'"bytes":5')


def running(server: Server) -> int:
    """Endless answers that the service is still writing."""
    count: int = httpx.get(server.url + "/seen").json()["running"]
    return count


def wait_for_nobody(server: Server) -> None:
    """Fails after half a minute."""
    deadline = time.monotonic() + 30
    while running(server):
        assert time.monotonic() < deadline, "still writes for a client that does not read"
        time.sleep(0.1)


def test_a_client_that_does_not_read_is_cut_off(hasty: Server) -> None:
    """HTTP/1.1: its answer ends."""
    with socket.create_connection(("127.0.0.1", hasty.port)) as connection:
        connection.sendall(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n")
        assert connection.recv(1)
        wait_for_nobody(hasty)


@pytest.mark.parametrize("room", [0, 1000, 65535])
def test_a_stream_whose_window_stays_shut_is_given_up(hasty: Server, room: int) -> None:
    """HTTP/2: and nothing of the answer piles up meanwhile."""
    before = psutil.Process(hasty.process.pid).memory_info().rss
    with http2_client(hasty.port, setting(INITIAL_WINDOW, room)) as client:
        client.send(request(1, b"/endless"))
        client.read_until(1)
        assert 1 in client.resets
        assert len(client.body.get(1, b"")) == room
    wait_for_nobody(hasty)
    assert psutil.Process(hasty.process.pid).memory_info().rss - before < 20_000_000
