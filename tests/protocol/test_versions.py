"""Dialects of HTTP: offers to upgrade, HTTP/1.0, hosts, HTTP/2 with curl."""

import json
import shutil
import socket
import subprocess

import pytest

from tests.protocol.attacks import exchange
from tests.protocol.frames import http2_client, literal, request
from tests.support import Server

BODY = b'{"case": "echo"}'
H2C = b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"


@pytest.mark.parametrize("offer", [H2C, b"connection: upgrade\r\nupgrade: websocket\r\n", b"upgrade: h2c\r\n"])
def test_an_offer_to_upgrade_is_ignored_and_the_body_kept(plain: Server, offer: bytes) -> None:
    """As java.net.http and `curl --http2` make it with every request."""
    head = b"POST /echo HTTP/1.1\r\nhost: x\r\n" + offer + b"content-length: 16\r\n\r\n"
    last = b"POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    answers = exchange(plain.port, head + BODY, last)
    assert answers.count(b"HTTP/1.1 200") == 2
    assert b'"bytes":16,' in answers
    assert b"101" not in answers


@pytest.mark.parametrize("option", ["--http1.0", "--http1.1", "--http2", "--http2-prior-knowledge"])
@pytest.mark.parametrize("size", [0, 27, 1_500_000])
def test_curl_in_every_dialect(plain: Server, option: str, size: int) -> None:
    """All of the body arrives."""
    curl = shutil.which("curl")
    assert curl, "curl is part of every system that this is run on"
    command = [curl, "-s", "--max-time", "30", option, "--data-binary", "@-", f"{plain.url}/echo"]
    made = subprocess.run(command, input=b"a" * size, capture_output=True, check=True)
    assert json.loads(made.stdout)["bytes"] == size


@pytest.mark.parametrize("option", ["--http1.0", "--http1.1", "--http2-prior-knowledge"])
def test_curl_reads_a_large_answer(plain: Server, option: str) -> None:
    """More than all windows and buffers hold."""
    curl = shutil.which("curl") or "curl"
    command = [curl, "-s", "--max-time", "60", option, f"{plain.url}/big?size=50000000"]
    assert len(subprocess.run(command, capture_output=True, check=True).stdout) == 50_000_000


@pytest.mark.parametrize("extra", [b"", b"connection: keep-alive\r\n"])
def test_http_1_0_gets_no_chunks(plain: Server, extra: bytes) -> None:
    """An answer without a length ends with the connection; one with a length says that it is the last."""
    streamed = exchange(plain.port, b"GET /three HTTP/1.0\r\n" + extra + b"\r\n").partition(b"\r\n\r\n")
    whole = exchange(plain.port, b"GET /big?size=5 HTTP/1.0\r\n" + extra + b"\r\n").partition(b"\r\n\r\n")
    assert streamed[2] == b"0\n1\n2\n"
    assert whole[2] == b"aaaaa"
    for head in (streamed[0], whole[0]):
        assert b"transfer-encoding" not in head.lower()
        assert head.lower().count(b"connection: close") == 1


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health/live HTTP/1.1\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n",
        b"GET /health/live HTTP/1.0\r\nhost: a\r\nhost: b\r\n\r\n",
        "GET /é HTTP/1.1\r\nhost: a\r\n\r\n".encode(),
        b"hEAD /health/live HTTP/1.1\r\nhost: a\r\n\r\n",
    ],
)
def test_what_two_readers_would_take_for_two_things_is_refused(plain: Server, head: bytes) -> None:
    """With a 400 in the one shape."""
    answer = exchange(plain.port, head)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "sent",
    [
        request(1, b"/health/live", host=None),
        request(1, b"/health/live", literal(b"host", b"a"), literal(b"host", b"b"), host=None),
        request(1, "/é".encode()),
        request(1, b"/health/live", method=b"hEAD"),
    ],
)
def test_http_2_refuses_the_same(plain: Server, sent: bytes) -> None:
    """The connection goes on."""
    with http2_client(plain.port) as client:
        client.send(sent, request(3, b"/health/live"))
        client.read_until(1, 3)
        assert client.resets.get(1) or client.status(1) == 400
        assert client.status(3) == 200


def test_expect_100_continue(plain: Server) -> None:
    """The body is asked for."""
    with socket.create_connection(("127.0.0.1", plain.port), timeout=30) as connection:
        head = (
            b"POST /echo HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\nconnection: close\r\ncontent-length: 2\r\n\r\n"
        )
        connection.sendall(head)
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"{}")
        assert b'"bytes":2,' in connection.makefile("rb").read()


@pytest.mark.parametrize("beginning", [b"", b"x" * 10])
def test_an_answer_that_does_not_wait_for_a_body_says_that_it_is_the_last(plain: Server, beginning: bytes) -> None:
    """Whoever would send the next request behind the body knows better, and reads the answer, not a reset."""
    with socket.create_connection(("127.0.0.1", plain.port), timeout=30) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nhost: x\r\ncontent-length: 20\r\n\r\n" + beginning)
        answer = connection.makefile("rb")
        head = b"".join(iter(answer.readline, b"\r\n")).lower()
        assert (head.startswith(b"http/1.1 200"), b"\r\nconnection: close\r\n" in head) == (True, True), head
        connection.sendall(b"x" * (20 - len(beginning)))
        assert answer.read().endswith(b"}")
    one = b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n"
    waits = exchange(plain.port, one, b"{}" + one.replace(b"host: x", b"host: x\r\nconnection: close") + b"{}")
    assert waits.count(b"HTTP/1.1 200") == 2
