"""What a gateway tells of its inside in its errors: nothing, whatever goes wrong and whoever asks."""

import itertools
import json
import re
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
import pytest
from typing_extensions import override

from onecard.models import identity
from tests.gateway.client_load import errors_in
from tests.gateway.gateway_scene import CHAT, MODEL
from tests.gateway.test_smuggling import REFUSED, exchange
from tests.support import KEY, Server, free_port, serving

INSIDE = re.compile(
    r"127\.0\.0\.1|localhost|10\.0\.0\.7|/tmp|/home|/root|/secret|site-packages|Traceback|File \"|\.py\b"
    r"|aiohttp|httpx|uvicorn|starlette|orjson|gateway\.\w|onecard\.\w|Errno|\wError\b"
)
"""Addresses, paths, stack traces, and names of modules and of exceptions."""
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: 0\n\n\r\n"
SHAPED = {"error": {"message": 'File "/tmp/secret.py": no 10.0.0.7', "type": "t", "param": None, "code": None}}


def said(status: int, body: bytes, *headers: bytes) -> bytes:
    """A whole answer."""
    return b"\r\n".join([b"HTTP/1.1 %d x" % status, *headers, b"content-length: %d" % len(body), b"", body])


ANSWERS = {
    "nothing": b"",
    "no HTTP": b"220 mail.example ESMTP\r\n",
    "half a head": b"HTTP/1.1 200 OK\r\ncontent-ty",
    "a wrong head": b"HTTP/1.1 200 OK\r\nx y z\r\n\r\n",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "a wrong chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    "less than announced": b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{",
    "a traceback": said(500, b'Traceback: File "/tmp/secret.py"'),
    "a traceback in the one shape": said(500, json.dumps(SHAPED).encode(), b"content-type: application/json"),
    "another's page": said(404, b"<h1>nginx at 10.0.0.7:8001</h1>"),
    "another's refusal": said(502, b"<h1>nginx at 10.0.0.7:8001</h1>"),
    "no key": said(401, b"The key of /tmp/secret is wrong"),
    "elsewhere": said(307, b"", b"location: http://10.0.0.7:8001/"),
    "telling headers": said(503, b"", b"server: uvicorn", b"via: 10.0.0.7", b"x-file: /tmp/secret"),
    "a stream that breaks off": STREAM,
    "a stream with a wrong chunk": STREAM + b"zz\r\n",
}
"""What comes from an address where no service of ours is, or one that is ill."""


class Impostor(socketserver.ThreadingTCPServer):
    """Says that it is ready, and sends `answer` to every request; then it closes, or falls silent."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Speaker)
        self.answer = b""
        self.silent = False

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self.server_address[1]
        return port


class _Speaker(socketserver.StreamRequestHandler):
    server: Impostor

    @override
    def handle(self) -> None:
        line = self.rfile.readline()
        length = 0
        while (header := self.rfile.readline().strip().lower()) != b"":
            if header.startswith(b"content-length:"):
                length = int(header.partition(b":")[2])
        self.rfile.read(length)  # Closing before would take back the answer.
        ready = b"/health/ready" in line
        tells = f"{identity.MODEL_HEADER}: {MODEL.header_value()}".encode()
        with suppress(OSError):
            self.wfile.write(said(200, b"{}", tells, b"connection: close") if ready else self.server.answer)
            if self.server.silent and not ready:
                self.connection.settimeout(20)
                self.rfile.read()


@pytest.fixture(scope="module")
def impostor() -> Iterator[Impostor]:
    """What the gateway takes for its LLM service."""
    with Impostor() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@contextmanager
def gateway_before(impostor: Impostor, cache_enabled: str, seconds: str) -> Iterator[Server]:
    """A gateway with a key, that keeps answers or does not, and waits so long for a service, and twice as long in all.
    There are neither encoders nor a Redis.
    """
    nobody = f"http://127.0.0.1:{free_port()}"
    env = {
        "API_KEY": KEY,
        "CACHE_ENABLED": cache_enabled,
        "REDIS_PORT": str(free_port()),
        "LLM_URL": f"http://127.0.0.1:{impostor.port}",
        "SENTIMENT_URL": nobody,
        "EMBEDDING_URL": nobody,
        "REVIEW_URL": nobody,
        "HEADER_TIMEOUT_SECONDS": "2",
        "BODY_TIMEOUT_SECONDS": "2",
        "UPSTREAM_FIRST_BYTE_SECONDS": seconds,
        "UPSTREAM_READ_SECONDS": seconds,
        "UPSTREAM_TOTAL_SECONDS": str(2 * float(seconds)),
    }
    with serving("gateway", port_variable="GATEWAY_PORT", env=env) as server:
        yield server


@pytest.fixture(scope="module", params=["true", "false"], ids=["kept", "relayed"])
def door(impostor: Impostor, request: pytest.FixtureRequest) -> Iterator[Server]:
    """One with short limits."""
    with gateway_before(impostor, request.param, "0.5") as server:
        yield server


@pytest.fixture(scope="module", params=["true", "false"], ids=["kept", "relayed"])
def patient(impostor: Impostor, request: pytest.FixtureRequest) -> Iterator[Server]:
    """One that waits longer than a test may take."""
    with gateway_before(impostor, request.param, "100") as server:
        yield server


numbers = itertools.count()


def ask(door: Server, path: str = CHAT, method: str = "POST", **options: object) -> httpx.Response:
    """With the key, for something unlike all others."""
    body = {"json": {"nonce": next(numbers)}} if method == "POST" else {}
    headers = {"authorization": f"Bearer {KEY}"}
    return httpx.request(method, door.url + path, **{"headers": headers, "timeout": 30, **body, **options})


def assert_tells_nothing(answer: httpx.Response, *ports: int) -> None:
    """It is an error, whole or in a stream, in the one shape, and neither in it nor in its headers is anything of the
    inside.
    """
    if answer.status_code == 200:
        [error] = errors_in(answer.content)
    else:
        assert answer.status_code >= 400, answer.text
        error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    told = f"{answer.headers.raw} {answer.text}"
    assert not INSIDE.search(told), told
    assert not [port for port in ports if str(port) in told], told


@pytest.mark.parametrize("silent", [False, True], ids=["then it closes", "then it is silent"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("case", ANSWERS)
def test_errors_of_services_tell_nothing(
    door: Server, impostor: Impostor, case: str, stream: bool, silent: bool
) -> None:
    """Neither what the service says, nor how the gateway fails to understand it; nor is its address in the log."""
    impostor.answer, impostor.silent = ANSWERS[case], silent
    assert_tells_nothing(ask(door, json={"nonce": next(numbers), "stream": stream}), impostor.port)
    assert str(impostor.port) not in door.log()
    assert "Traceback" not in door.log()


EVENTS, LAST = b"content-type: text/event-stream", b"connection: close"
NOT_ANSWERS = {
    "a failure in events": (said(400, b"data: secret\n\n", EVENTS, LAST), 400),
    "a fault in events": (said(500, b"data: secret\n\n", EVENTS, LAST), 500),
    "a refusal in events without end": (b"HTTP/1.1 503 x\r\n" + EVENTS + b"\r\n\r\ndata: secret\n\n", 503),
    "a status above all others": (said(600, b"secret"), 502),
    "another protocol": (said(101, b"secret", b"connection: upgrade", b"upgrade: h2c"), 502),
    "an encoding that nobody asked for": (said(200, b"secret", b"content-encoding: gzip"), 502),
    "the answer to another request": (said(200, b"secret", b"x-request-id: another"), 502),
    "an error of another shape": (said(400, b'{"error": {"message": "secret", "a": 1}}', LAST), 400),
    "an error whose message is none": (
        said(400, b'{"error": {"message": ["secret"], "type": "", "param": 1, "code": 1}}', LAST),
        400,
    ),
    "a Retry-After below zero": (said(503, b"", b"retry-after: -5", LAST), 503),
    "a Retry-After of many digits": (said(503, b"", b"retry-after: " + b"9" * 5000, LAST), 503),
    "an error that is long": (said(400, b"secret" * 100_000, LAST), 400),
}
"""With the status that its client gets."""


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("case", NOT_ANSWERS)
def test_what_is_no_answer_is_one_error(patient: Server, impostor: Impostor, case: str, stream: bool) -> None:
    """In the one shape, and at once, also where the service says no more and does not close."""
    impostor.answer, status = NOT_ANSWERS[case]
    impostor.silent = True
    answer = ask(patient, json={"nonce": next(numbers), "stream": stream})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert "secret" not in answer.text
    assert answer.headers.get("retry-after") == ("2" if status in (502, 503) else None)


WRONG: dict[str, dict[str, object]] = {
    "no key": {"headers": {}},
    "a wrong key": {"headers": {"authorization": f"Bearer {KEY}x"}},
    "an unknown path": {"path": "/v1/nothing"},
    "a path of files": {"path": "/v1/..%2f..%2ftmp"},
    "a wrong method": {"method": "GET"},
    "an unknown model": {"path": "/v1/models/gpt-4", "method": "GET"},
    "a service that is away": {"path": "/v1/sentiment"},
    "no JSON": {"path": "/v1/embeddings", "content": b"{", "json": None},
    "too much": {"content": b"a" * 3_000_000, "json": None},
    "a time limit that means nothing": {
        "headers": {"authorization": f"Bearer {KEY}", "x-onecard-timeout-ms": "soon"},
    },
    "a time limit that is over": {
        "headers": {"authorization": f"Bearer {KEY}", "x-onecard-timeout-ms": "1"},
    },
}  # fmt: skip
"""Requests that the gateway itself refuses, or fails to bring to a service."""


@pytest.mark.parametrize("case", WRONG)
def test_errors_of_the_gateway_tell_nothing(door: Server, impostor: Impostor, case: str) -> None:
    """Each says in the one shape what to do."""
    impostor.answer, impostor.silent = b"", True
    assert_tells_nothing(ask(door, **WRONG[case]), impostor.port)  # type: ignore[arg-type]


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_of_bad_http_tell_nothing(door: Server, case: str) -> None:
    """As bytes on a socket: these never become requests."""
    [(status, body)] = exchange(door.port, REFUSED[case][0])
    assert_tells_nothing(httpx.Response(status, content=body))
