"""The load generator: an HTTP/1.1 client whose requests are prepared bytes, and closed and open loops of it.

Responses are parsed in C, so that it takes a fraction of a full client's CPU time and leaves the cores to the servers
under test.
"""

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httptools

from bench.measurements import Figures, percentiles, ratio

TIMEOUT_SECONDS = 120.0
"""Timeout of one request; then it counts as an error."""
PAUSE_AFTER_ERROR_SECONDS = 0.05


@dataclass(frozen=True)
class HttpResponse:
    """A complete response."""

    status: int
    headers: Mapping[str, str]
    """Values by lower-case name."""
    body: bytes
    first_seconds: float
    """Time from sending the request to the first byte of the body."""
    seconds: float
    """Time from sending the request to the last byte."""


OnResponse = Callable[[HttpResponse], None]
"""Called with every response."""
Check = Callable[[HttpResponse], str | None]
"""Says why a response counts as an error; None: it does not."""


def request_bytes(path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """Render a `POST` request with a JSON body."""
    lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", "content-type: application/json"]
    lines += [f"content-length: {len(body)}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def json_request(path: str, value: Any, headers: Mapping[str, str] | None = None) -> bytes:
    """Render a `POST` request with `value` as JSON."""
    return request_bytes(path, json.dumps(value, ensure_ascii=False).encode(), headers or {})


def get_request(path: str) -> bytes:
    """Render a `GET` request."""
    return f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode()


class HttpConnection(asyncio.Protocol):
    """One keep-alive connection with at most one request in flight."""

    def __init__(self) -> None:
        self.open = False
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[HttpResponse] | None = None
        self._begin()

    def _begin(self) -> None:
        self._headers: dict[str, str] = {}
        self._parts: list[bytes] = []
        self._first = 0.0

    def send(self, request: bytes) -> asyncio.Future[HttpResponse]:
        """Send a request. The future gets the response, or a `ConnectionError`."""
        self._answer = asyncio.get_running_loop().create_future()
        self._sent = time.perf_counter()
        if self._transport is None or not self.open:
            self._answer.set_exception(ConnectionError("closed"))
        else:
            self._transport.write(request)
        return self._answer

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by asyncio."""
        self._transport, self.open = transport, True

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self.open = False
        self._fail(exc or ConnectionError("closed before the end of the answer"))

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionError(f"no HTTP: {error}"))
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by httptools."""
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        """Called by httptools."""
        if not self._parts:
            self._first = time.perf_counter()
        self._parts.append(body)

    def on_message_complete(self) -> None:
        """Called by httptools."""
        status, ended = self._parser.get_status_code(), time.perf_counter()
        if not self._parser.should_keep_alive():
            self.open = False
            self.close()
        first = (self._first or ended) - self._sent
        answer = HttpResponse(status, self._headers, b"".join(self._parts), first, ended - self._sent)
        self._begin()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


class HttpLoadClient:
    """Sends requests to one server, one at a time, and connects when needed. Use it in an `async with`."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname or "127.0.0.1", parts.port or 80
        self._connection: HttpConnection | None = None

    async def send(self, request: bytes) -> HttpResponse:
        """Send a request; an OSError, of which TimeoutError is one, without an answer. Cancelled, it disconnects."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                if self._connection is None or not self._connection.open:
                    loop = asyncio.get_running_loop()
                    _, self._connection = await loop.create_connection(HttpConnection, *self._address)
                return await self._connection.send(request)
        except (asyncio.CancelledError, TimeoutError):
            self.close()  # Its response would be taken for that of the next request.
            raise

    async def __aenter__(self) -> "HttpLoadClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Answer(NamedTuple):
    """What became of one request."""

    ended: float
    """Clock at its end."""
    latency_ms: float
    failure: str | None
    """Why there was no successful response: its status, the exception's name, or what the check said."""
    cache: str | None
    """Header `x-cache` of a successful response."""


@dataclass
class Tally:
    """What became of all requests of a load."""

    started: float = field(default_factory=time.perf_counter)
    answers: list[Answer] = field(default_factory=list)
    unfinished: int = 0
    """Clients that were still waiting at the limit."""
    stopped: float | None = None
    """Clock at the limit, if it was reached."""

    def record(self, since: float, failure: str | None, cache: str | None = None) -> None:
        """Record the end of a request whose latency counts from the clock `since`."""
        ended = time.perf_counter()
        self.answers.append(Answer(ended, (ended - since) * 1000, failure, cache))

    @property
    def latencies_ms(self) -> list[float]:
        """Latencies of successful requests."""
        return [one.latency_ms for one in self.answers if one.failure is None]

    @property
    def errors(self) -> dict[str, int]:
        """Failed requests, by reason."""
        return dict(Counter(one.failure for one in self.answers if one.failure is not None))

    @property
    def seconds(self) -> float:
        """From the first request to the last response, or to the limit."""
        ended = self.answers[-1].ended if self.answers else self.started
        return max(0.0, (ended if self.stopped is None else self.stopped) - self.started)

    @property
    def states(self) -> Counter[str]:
        """Successful responses by their header `x-cache`."""
        return Counter(one.cache or "none" for one in self.answers if one.failure is None)

    def share(self, state: str) -> float | None:
        """Share of successful responses with this `x-cache`, 0 to 1; None without responses."""
        return ratio(self.states[state], self.states.total())

    def figures(self, *percents: int) -> Figures:
        """Percentiles of the latencies, `requests` (successful ones) and `errors`."""
        latencies = self.latencies_ms
        return {
            **percentiles(latencies, *percents),
            "requests": len(latencies),
            "errors": len(self.answers) - len(latencies),
        }


def status_failure(answer: HttpResponse) -> str | None:
    """Count everything but 200 as an error."""
    return None if answer.status == 200 else str(answer.status)


async def exchange(
    client: HttpLoadClient,
    request: bytes,
    tally: Tally,
    since: float,
    check: Check = status_failure,
    note: OnResponse | None = None,
) -> HttpResponse | None:
    """Send a request and record in `tally` what becomes of it. Returns the successful response, or None."""
    try:
        answer = await client.send(request)
    except OSError as error:
        tally.record(since, type(error).__name__)
        return None
    if note is not None:
        note(answer)
    failure = check(answer)
    tally.record(since, failure, answer.headers.get("x-cache"))
    return answer if failure is None else None


async def closed_loop(
    url: str,
    requests: Iterator[bytes],
    *,
    clients: int,
    seconds: float,
    limit_seconds: float = math.inf,
    check: Check = status_failure,
    note: OnResponse | None = None,
) -> Tally:
    """Run closed-loop load: each client sends its next request when its last is answered.

    Args:
        url: the server.
        requests: what to send; the load ends when they do.
        clients: number of concurrent clients.
        seconds: how long new requests are sent.
        limit_seconds: after so long, those that are still under way are given up and count as unfinished.
        check: decides whether a response is an error.
        note: called with every response.

    Returns:
        Latencies and errors.
    """
    tally = Tally()

    async def one() -> None:
        async with HttpLoadClient(url) as client:
            while (sent := time.perf_counter()) < tally.started + seconds and (request := next(requests, None)):
                if await exchange(client, request, tally, sent, check, note) is None:
                    await asyncio.sleep(PAUSE_AFTER_ERROR_SECONDS)

    tasks = [asyncio.create_task(one()) for _ in range(clients)]
    done, late = await asyncio.wait(tasks, timeout=None if math.isinf(limit_seconds) else limit_seconds)
    if late:
        tally.unfinished, tally.stopped = len(late), time.perf_counter()
        for task in late:
            task.cancel()
        await asyncio.wait(late)
    for task in done:
        task.result()
    return tally


async def open_loop(
    url: str,
    requests: Iterable[bytes],
    *,
    rate: float,
    check: Check = status_failure,
    note: OnResponse | None = None,
    stop: asyncio.Event | None = None,
) -> Tally:
    """Run open-loop load: requests start at a fixed rate, however many are still waiting.

    A latency is measured from the time when its request was due, so that a stall of the server counts for all requests
    that it delays (no coordinated omission).

    Args:
        url: the server.
        requests: what to send.
        rate: requests per second.
        check: decides whether a response is an error.
        note: called with every response.
        stop: ends the load once it is set.

    Returns:
        Latencies and errors, in the order of their ends.
    """
    tally = Tally()
    idle: list[HttpLoadClient] = []

    async def one(request: bytes, due: float) -> None:
        client = idle.pop() if idle else HttpLoadClient(url)
        await exchange(client, request, tally, due, check, note)
        idle.append(client)

    async with asyncio.TaskGroup() as under_way:
        for number, request in enumerate(requests):
            if stop is not None and stop.is_set():
                break
            due = tally.started + number / rate
            await asyncio.sleep(due - time.perf_counter())
            under_way.create_task(one(request, due))
    for client in idle:
        client.close()
    return tally
