"""One request to one service and back: bytes in, bytes out, nothing buffered that need not be."""

from collections.abc import AsyncIterator, Mapping

import httpx
import orjson
from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from gateway.upstreams import Upstream
from onecard import logs
from onecard.edge import state_of
from onecard.errors import BadUpstream, DeadlineExceeded, Unavailable, error_body
from onecard.leaving import while_connected

FORWARDED = (
    "accept",
    "content-type",
    "traceparent",
    "tracestate",
    "x-onecard-lane",
    "x-onecard-timeout-ms",
    "x-request-id",
)
"""The client's headers that a service gets. A list of what may pass: everything else stays outside."""
RETURNED = ("allow", "content-type", "retry-after", "x-cache")
"""The service's headers that the client gets."""
RETRY_AFTER_SECONDS = 2.0
"""What a client is told to wait for a service that is away: a supervisor restarts it within seconds."""
EVENT_STREAM = "text/event-stream"
NOTHING_ANSWERED = (httpx.ConnectError, httpx.ConnectTimeout)
"""No connection, or one that ended before the first byte of an answer (httpx-aiohttp reports both as these): most
often a pooled connection to a service that has restarted since. Repeating is safe: nothing here has side effects."""

log = logs.logger()


async def relay(request: Request, upstream: Upstream) -> Response:
    """Send the request to the same path of `upstream` and answer with what comes back.

    Whatever streams is passed on chunk by chunk. When the client leaves, the service's work is cancelled by
    closing the connection to it.

    Raises:
        Unavailable, BadUpstream, DeadlineExceeded: the service is away, broke off, or is silent for too long.
    """
    sent = await _send(request, upstream)
    timings = state_of(request.scope)["timings"]
    timings.update(_upstream_timings(sent.headers.get("server-timing", "")))
    headers = {name: sent.headers[name] for name in RETURNED if name in sent.headers}
    if sent.headers.get("content-type", "").startswith(EVENT_STREAM):
        return StreamingResponse(_stream(sent, upstream), sent.status_code, headers)
    try:
        body = await while_connected(sent.aread(), request.receive)
    except httpx.HTTPError as error:
        raise _translate(error, upstream) from None
    finally:
        await sent.aclose()
    if sent.status_code >= 400:
        return _error_answer(sent.status_code, headers, body, upstream)
    return Response(body, sent.status_code, headers)


async def _send(request: Request, upstream: Upstream) -> httpx.Response:
    """The service's answer up to its headers; retried while nothing has been answered and nothing was begun."""
    headers = {name: request.headers[name] for name in FORWARDED if name in request.headers}
    headers["accept-encoding"] = "identity"
    if upstream.key:
        headers["authorization"] = f"Bearer {upstream.key}"
    outgoing = upstream.client.build_request(
        request.method, request.url.path, headers=headers, content=await request.body()
    )
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(NOTHING_ANSWERED),
        stop=stop_after_attempt(3),
        wait=wait_random_exponential(multiplier=0.05, max=0.3),
        reraise=True,
    )
    try:
        return await while_connected(retrying(upstream.client.send, outgoing, stream=True), request.receive)
    except httpx.HTTPError as error:
        raise _translate(error, upstream) from None


async def _stream(sent: httpx.Response, upstream: Upstream) -> AsyncIterator[bytes]:
    """The body as it comes. A service that breaks off leaves an error event, so that no client takes it for the end."""
    try:
        async for chunk in sent.aiter_raw():
            yield chunk
    except httpx.HTTPError as error:
        translated = _translate(error, upstream)
        # Chunks are not events: the service may have broken off inside one, which the empty line ends.
        yield b"\n\ndata: " + error_body(str(translated.detail), translated.type, translated.code) + b"\n\n"
    finally:
        await sent.aclose()


def _translate(error: httpx.HTTPError, upstream: Upstream) -> BadUpstream | DeadlineExceeded | Unavailable:
    """What the client is told: which service, and what to do; no address."""
    log.warning("upstream failed", upstream=upstream.name, error=type(error).__name__)
    if isinstance(error, NOTHING_ANSWERED):
        return unavailable(upstream)
    if isinstance(error, httpx.TimeoutException):
        return DeadlineExceeded(f"The {upstream.name} service did not answer in time. Ask for less, or try again.")
    return BadUpstream(f"The {upstream.name} service broke off its answer. Try again.", retry_after=RETRY_AFTER_SECONDS)


def unavailable(upstream: Upstream) -> Unavailable:
    """The answer while a service is away."""
    message = f"The {upstream.name} service is down or starting. Try again in a few seconds."
    return Unavailable(message, retry_after=RETRY_AFTER_SECONDS)


def _error_answer(status: int, headers: dict[str, str], body: bytes, upstream: Upstream) -> Response:
    """A service's error, in the one shape; our own key being refused is our fault and not the client's."""
    if status == 401:
        raise BadUpstream(f"The {upstream.name} service does not accept the gateway's key. Tell the operator.")
    if status == 503:
        headers.setdefault("retry-after", str(int(RETRY_AFTER_SECONDS)))
    if not _has_error_shape(body):
        type_ = "server_error" if status >= 500 else "invalid_request_error"
        body = error_body(f"The {upstream.name} service answered with status {status}.", type_, f"http_{status}")
        headers["content-type"] = "application/json"
    return Response(body, status, headers)


def _has_error_shape(body: bytes) -> bool:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(value, Mapping) and isinstance(value.get("error"), Mapping)


def _upstream_timings(header: str) -> dict[str, float]:
    """A service's `server-timing` as milliseconds by name, its `total` renamed: `total` is the gateway's own."""
    timings: dict[str, float] = {}
    for entry in header.split(","):
        name, _, duration = entry.strip().partition(";dur=")
        try:
            timings["upstream" if name == "total" else name] = float(duration)
        except ValueError:
            continue
    return timings
