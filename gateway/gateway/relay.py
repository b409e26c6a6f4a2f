"""One request to one service and back: bytes in, bytes out, nothing buffered that need not be."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from urllib.parse import parse_qsl, quote, urlencode

from fastapi.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from typing_extensions import override

from gateway.routes import Handler
from gateway.upstream.deadline import Deadline
from gateway.upstream.request import UpstreamRequest, send
from gateway.upstream.response import RETRY_AFTER_SECONDS, UpstreamResponse
from gateway.upstream.services import Upstream
from onecard import logs
from onecard.errors import BadUpstream, OnecardError, Unavailable, error_body
from onecard.models.identity import ModelIdentity
from onecard.web import request_parsing
from onecard.web.auth import Caller
from onecard.web.buffer_semaphore import BufferLease
from onecard.web.disconnect import ClientDisconnected, cancel_on_disconnect
from onecard.web.middleware import request_state

FORWARDED_HEADERS = frozenset(
    b"accept cache-control content-type traceparent tracestate x-onecard-lane x-onecard-timeout-ms x-request-id".split()
)
"""The client's headers that a service gets. A list of what may pass: everything else stays outside."""
WRITE_BYTES = 64 * 1024
"""Of a whole answer so much is given to the server at a time."""
FINAL_EVENT_SECONDS = 1.0
"""After a request's time: in it, a client that reads hears of that."""
_ERROR_FIELDS = {"message", "type", "param", "code"}
_SECONDS = re.compile(r"[0-9]{1,9}")

log = logs.logger()


def upstream_request_of(scope: Scope) -> UpstreamRequest:
    """What a request asks a service, made once: the same path and body, and of a GET the same query.

    Path and query are written anew from what was read of them, so that the service reads the same.
    """
    state = request_state(scope)
    made: UpstreamRequest | None = state.get("upstream_request")
    if made is not None:
        return made
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        if name in FORWARDED_HEADERS:
            field, line = name.decode(), value.decode("latin-1")
            # A field that comes in several lines is one list (RFC 9110, section 5.3).
            headers[field] = f"{headers[field]}, {line}" if field in headers else line
    path = quote(scope["path"])
    if scope["method"] == "GET" and scope["query_string"]:
        path += "?" + urlencode(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
    caller: Caller | None = state.get("caller")
    name = caller.name if caller else ""
    made = UpstreamRequest(scope["method"], path, headers, state["body"], state["trace"], name, state["held"])
    state["upstream_request"] = made
    return made


async def relay(scope: Scope, receive: Receive, upstream: Upstream) -> Response:
    """Send the request to the same path of `upstream` and answer with what comes back.

    Whatever streams or is long is passed on chunk by chunk. When the client leaves, the service's work is cancelled by
    closing the connection to it.

    Raises:
        TooBusy, Unavailable, BadUpstream, DeadlineExceeded: too many wait for the service, there is no room for the
            answer, or the service is away, broke off, or is silent for too long.
    """
    with cancel_on_disconnect(receive):
        reply = await send(upstream_request_of(scope), upstream)
        request_state(scope)["timings"].update(reply.timings)
        if reply.is_stream or (reply.status < 300 and not reply.is_complete):
            headers = reply.headers if reply.length is None else {**reply.headers, "content-length": reply.length}
            closing = AsyncExitStack()
            closing.callback(reply.close)
            return StreamedResponse(reply, reply.status, headers, reply.deadline, closing, says_why=reply.is_stream)
        try:
            body = await reply.read()
        finally:
            reply.close()
    return complete_response(reply, body, upstream)


def relay_handler(upstream: Upstream) -> Handler:
    """What answers requests to `upstream`."""

    async def handle(scope: Scope, receive: Receive) -> Response:
        return await relay(scope, receive, upstream)

    return handle


class ResponseCutOff(Exception):
    """The answer cannot be finished, and its beginning is out: the server has to break the connection."""


class StreamedResponse(StreamingResponse):
    """Chunks as they come, until the client leaves, or the time of its request is over.

    Whatever holds the chunks is closed here and not in a generator: one that is never started, since the client has
    left by then, never comes to its end, and one that is left at a `yield` does so when it is collected.

    Starlette's own cancels through anyio, which waits for a moment at which no data has come: from a fast service there
    is none, and it would be read on and on for nobody.
    """

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        status: int,
        headers: Mapping[str, str],
        deadline: Deadline,
        closing: AsyncExitStack,
        *,
        says_why: bool = True,
    ):
        """Answer with `chunks`, within `closing`.

        An answer that cannot be finished `says_why` in an error event, so that no client takes that for the end: the
        service broke off, or the gateway stops. What is no stream of events has no place for it.
        """
        super().__init__(chunks, status, headers)
        self._deadline = deadline
        self._closing = closing
        self._reports_errors = says_why

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._closing:
            with cancel_on_disconnect(receive) as client:
                try:
                    async with asyncio.timeout(self._deadline.remaining + FINAL_EVENT_SECONDS) as limit:
                        await self._send(client, limit, send)
                except TimeoutError:
                    log.info("client reads too slowly", path=scope["path"])
                    raise ClientDisconnected from None  # Nothing that it was told would get there.

    async def _send(self, client: cancel_on_disconnect, limit: asyncio.Timeout, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            await self.send_chunks(send)
        except asyncio.CancelledError:
            if self._reports_errors and not client.disconnected and not limit.expired():
                await send({"type": "http.response.body", "body": error_event(_stopping())})
            raise
        except Exception as error:
            failure = self.failure_of(error)
            if failure is None:
                raise
            if not self._reports_errors:
                raise ResponseCutOff from None
            await send({"type": "http.response.body", "body": error_event(failure), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def send_chunks(self, send: Send) -> None:
        """Send the body, but for its end."""
        async for chunk in self.body_iterator:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})

    def failure_of(self, error: Exception) -> OnecardError | None:
        """What the client is told of an error in the middle; None of a fault of this code."""
        return error if isinstance(error, OnecardError) else None


class CompleteResponse(Response):
    """An answer that is here, in pieces that each wait until the client has taken the one before."""

    buffers: BufferLease | None = None
    """What counts it, if it is not the request that does."""
    model: ModelIdentity | None = None
    """Which model it is of, if the service says so; not for the client."""

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if len(self.body) <= WRITE_BYTES:
            await super().__call__(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for begin in range(0, len(self.body), WRITE_BYTES):
            piece = self.body[begin : begin + WRITE_BYTES]
            await send({"type": "http.response.body", "body": bytes(piece), "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def _stopping() -> Unavailable:
    return Unavailable("The gateway is stopping, and the answer is not finished. Ask again.")


def error_event(error: OnecardError) -> bytes:
    """An error in the middle of a stream.

    Chunks are not events: the service may have broken off inside one, which the empty line ends.
    """
    return b"\n\ndata: " + error_body(str(error.detail), error.type, error.code) + b"\n\n"


def with_timeout(seconds: float, response: Response) -> ASGIApp:
    """The same, for so many seconds at most. What streams knows its time, and what is short is gone at once."""
    if not isinstance(response, CompleteResponse) or len(response.body) <= WRITE_BYTES:
        return response

    async def send_in_time(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(seconds):
                await response(scope, receive, send)
        except TimeoutError:
            raise ClientDisconnected from None

    return send_in_time


def complete_response(reply: UpstreamResponse, body: bytes, upstream: Upstream) -> CompleteResponse:
    """A service's answer that does not stream; an error is put into the one shape.

    Raises:
        BadUpstream: it is our own key that the service refuses, or our setting that leads to something else.
    """
    if reply.status >= 400:
        return _error_response(reply, body, upstream)
    if reply.status >= 300:
        raise BadUpstream(f"The {upstream.name} service redirects the gateway. Tell the operator to check its address.")
    answer = CompleteResponse(body, reply.status, reply.headers)
    answer.model = reply.model
    return answer


def _error_response(reply: UpstreamResponse, body: bytes, upstream: Upstream) -> CompleteResponse:
    if reply.status == 401:
        raise BadUpstream(f"The {upstream.name} service does not accept the gateway's key. Tell the operator.")
    if reply.status == 421:
        raise BadUpstream(
            f"The {upstream.name} service is asked under a name that it does not know. Tell the operator to add it to "
            "that service's ALLOWED_HOSTS."
        )
    headers = dict(reply.headers)
    if not _SECONDS.fullmatch(headers.get("retry-after", "")):
        headers.pop("retry-after", None)
    if reply.status == 503:
        headers.setdefault("retry-after", str(int(RETRY_AFTER_SECONDS)))
    # What a service says of a fault of its own is for its log: it may be an exception's text, with paths in it.
    if reply.status == 500 or not _is_error(request_parsing.json_fields(body).get("error")):
        type_ = "server_error" if reply.status >= 500 else "invalid_request_error"
        message = f"The {upstream.name} service answered with status {reply.status}."
        body = error_body(message, type_, f"http_{reply.status}")
    headers["content-type"] = "application/json"
    return CompleteResponse(body, reply.status, headers)


def _is_error(error: object) -> bool:
    return isinstance(error, Mapping) and set(error) == _ERROR_FIELDS and isinstance(error["message"], str)
