"""Relays one request to one service, and its response back. Bodies are bytes; nothing is buffered without need."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
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
from onecard.errors import BadUpstream, HeadersTooLarge, OnecardError, Unavailable, error_body
from onecard.inference.scheduling import WAITED_HEADER
from onecard.models.identity import ModelIdentity
from onecard.web import request_parsing
from onecard.web.auth import Caller
from onecard.web.buffer_semaphore import BufferLease
from onecard.web.disconnect import ClientDisconnected, cancel_on_disconnect
from onecard.web.middleware import request_state

FORWARDED_HEADERS = frozenset(
    b"accept cache-control content-type traceparent tracestate x-onecard-lane x-onecard-timeout-ms x-request-id".split()
)
"""Request headers that a service gets. An allow-list: all others are dropped."""
MAX_FORWARDED_BYTES = 15_000
"""Longest path, query and headers that a service gets, together. Its parser takes 16 KiB of one line, and our own takes
more over HTTP/2, in several lines, or before it is encoded anew. What that parser refuses has no request id of ours,
and would count as a failure of each replica in turn."""
WRITE_BYTES = 64 * 1024
"""A complete response is given to the server in chunks of this size."""
FINAL_EVENT_SECONDS = 1.0
"""Extra time after a request's deadline, in which the client can receive the error event."""
_ERROR_FIELDS = {"message", "type", "param", "code"}
_SECONDS = re.compile(r"[0-9]{1,9}")

log = logs.logger()


def upstream_request_of(scope: Scope) -> UpstreamRequest:
    """The request to a service that a client's request becomes; built once and kept in the request state.

    Path and query are encoded anew from their parsed form, so that the service cannot read them differently.

    Args:
        scope: of the client's request.

    Returns:
        A request with the same path and body, for a GET the same query, and the allowed headers.

    Raises:
        HeadersTooLarge: path, query and headers are over `MAX_FORWARDED_BYTES`.
    """
    state = request_state(scope)
    request: UpstreamRequest | None = state.get("upstream_request")
    if request is not None:
        return request
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        if name in FORWARDED_HEADERS:
            field, line = name.decode(), value.decode("latin-1")
            # The values of several lines are one list (RFC 9110, section 5.3).
            headers[field] = f"{headers[field]}, {line}" if field in headers else line
    path = quote(scope["path"])
    if scope["method"] == "GET" and scope["query_string"]:
        path += "?" + urlencode(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
    if len(path) + sum(map(len, headers.values())) > MAX_FORWARDED_BYTES:
        raise HeadersTooLarge(
            f"Path, query and the headers that a service gets are over {MAX_FORWARDED_BYTES / 1000:g} kB. Send less."
        )
    caller: Caller | None = state.get("caller")
    name = caller.name if caller else ""
    held: BufferLease = state["held"]
    held.charge_to(name)
    request = UpstreamRequest(scope["method"], path, headers, state["body"], held, state["trace"], name)
    state["upstream_request"] = request
    return request


async def relay(scope: Scope, receive: Receive, upstream: Upstream) -> Response:
    """Send a request to the same path of a service, and return its response.

    A stream or a long body is passed on chunk by chunk. If the client disconnects, the connection to the service is
    closed, which cancels its work. If the request state says `has_waited`, as the load shedder does, so does a header.

    Args:
        scope: of the client's request.
        receive: its ASGI channel.
        upstream: the service.

    Returns:
        The response for the client.

    Raises:
        TooBusy: the service's queue is full.
        Unavailable: the service cannot be reached, or there is no buffer space.
        BadUpstream: the service broke off its response.
        DeadlineExceeded: the time is over, or the service was silent for too long.
        HeadersTooLarge: as `upstream_request_of`.
    """
    with cancel_on_disconnect(receive):
        request = upstream_request_of(scope)
        if request_state(scope).get("has_waited"):
            request = replace(request, headers={**request.headers, WAITED_HEADER: "1"})
        reply = await send(request, upstream)
        request_state(scope)["timings"].update(reply.timings)
        if reply.is_stream or (reply.status < 300 and not reply.is_complete):
            headers = reply.headers if reply.length is None else {**reply.headers, "content-length": reply.length}
            closing = AsyncExitStack()
            closing.callback(reply.close)
            return StreamedResponse(reply, reply.status, headers, reply.deadline, closing, is_sse=reply.is_stream)
        try:
            body = await reply.read()
        finally:
            reply.close()
    return complete_response(reply, body, upstream)


def relay_handler(upstream: Upstream) -> Handler:
    """A handler that relays to one service.

    Args:
        upstream: the service.

    Returns:
        The handler.
    """

    async def handle(scope: Scope, receive: Receive) -> Response:
        return await relay(scope, receive, upstream)

    return handle


class ResponseCutOff(Exception):
    """The response cannot be finished and its head has been sent: the server has to close the connection."""

    def __init__(self, status_code: int) -> None:
        """Note what happened.

        Args:
            status_code: of the error that the client would have got before the head.
        """
        super().__init__(status_code)
        self.status_code = status_code


class StreamedResponse(StreamingResponse):
    """Sends chunks as they are received, until the client disconnects or the request's time is over.

    What the chunks come from is closed here, not in a generator: a generator that is never started, because the client
    has already left, never reaches its `finally`, and one abandoned at a `yield` reaches it only when it is collected.

    Starlette's own response cancels through anyio, which takes effect only when the response has to wait for data. With
    a fast service that never happens, and the stream would be read to its end for a client that has left.
    """

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        status: int,
        headers: Mapping[str, str],
        deadline: Deadline,
        closing: AsyncExitStack,
        *,
        is_sse: bool = True,
    ):
        """Prepare the response.

        Args:
            chunks: the body.
            status: HTTP status.
            headers: of the response.
            deadline: of the request.
            closing: closed when the response is over.
            is_sse: whether it is an event stream. A failure is then reported in an error event, so that no client takes
                the stream for complete. Otherwise the connection is closed.
        """
        super().__init__(chunks, status, headers)
        self._deadline = deadline
        self._closing = closing
        self._reports_errors = is_sse

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._closing:
            with cancel_on_disconnect(receive) as client:
                try:
                    async with asyncio.timeout(self._deadline.remaining + FINAL_EVENT_SECONDS) as time_limit:
                        await self._send(client, time_limit, send)
                except TimeoutError:
                    log.info("client reads too slowly", path=scope["path"])
                    raise ClientDisconnected from None  # An error event would not reach it.

    async def _send(self, client: cancel_on_disconnect, time_limit: asyncio.Timeout, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            await self.send_chunks(send)
        except asyncio.CancelledError:
            if self._reports_errors and not client.disconnected and not time_limit.expired():
                await send({"type": "http.response.body", "body": error_event(_stopping())})
            raise
        except Exception as error:
            failure = self.failure_of(error)
            if failure is None:
                raise
            if not self._reports_errors:
                raise ResponseCutOff(failure.status_code) from None
            await send({"type": "http.response.body", "body": error_event(failure), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def send_chunks(self, send: Send) -> None:
        """Send the chunks of the body, without ending it.

        Args:
            send: ASGI channel.
        """
        async for chunk in self.body_iterator:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})

    def failure_of(self, error: Exception) -> OnecardError | None:
        """The error that the client gets for a failure in the middle of the stream.

        Args:
            error: raised while reading the chunks.

        Returns:
            The error; None if it is a bug.
        """
        return error if isinstance(error, OnecardError) else None


class CompleteResponse(Response):
    """A response whose body is in memory. It is sent in chunks, each after the client has taken the one before."""

    buffers: BufferLease | None = None
    """Holds the buffer space of a shared body; None if the request's own lease does."""
    model: ModelIdentity | None = None
    """The model that the service named, if any; not for the client."""

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if len(self.body) <= WRITE_BYTES:
            await super().__call__(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for start in range(0, len(self.body), WRITE_BYTES):
            chunk = self.body[start : start + WRITE_BYTES]
            await send({"type": "http.response.body", "body": bytes(chunk), "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def _stopping() -> Unavailable:
    return Unavailable("The gateway is stopping, and the answer is not finished. Ask again.")


def error_event(error: OnecardError) -> bytes:
    """Render an error in the middle of a stream.

    It begins with an empty line, because the service may have broken off inside an event.

    Args:
        error: the error.

    Returns:
        The event.
    """
    return b"\n\ndata: " + error_body(str(error.detail), error.type, error.code) + b"\n\n"


def with_timeout(seconds: float, response: Response) -> ASGIApp:
    """Limit the time for sending a long complete response. Streams have their own limit, short responses need none.

    Args:
        seconds: the limit.
        response: what to send.

    Returns:
        The response, or an ASGI app around it.
    """
    if not isinstance(response, CompleteResponse) or len(response.body) <= WRITE_BYTES:
        return response

    async def send_in_time(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(seconds):
                await response(scope, receive, send)
        except TimeoutError:
            raise ClientDisconnected from None

    return send_in_time


def complete_response(response: UpstreamResponse, body: bytes, upstream: Upstream) -> CompleteResponse:
    """Convert a service's response that is not streamed. Errors get the gateway's usual error body.

    Args:
        response: the service's.
        body: its whole body.
        upstream: the service.

    Returns:
        The response for the client.

    Raises:
        BadUpstream: the service refuses the gateway's own key or host name, or redirects: the gateway's settings are
            wrong.
    """
    if response.status >= 400:
        return _error_response(response, body, upstream)
    if response.status >= 300:
        raise BadUpstream(f"The {upstream.name} service redirects the gateway. Tell the operator to check its address.")
    complete = CompleteResponse(body, response.status, response.headers)
    complete.model = response.model
    return complete


def _error_response(response: UpstreamResponse, body: bytes, upstream: Upstream) -> CompleteResponse:
    if response.status == 401:
        raise BadUpstream(f"The {upstream.name} service does not accept the gateway's key. Tell the operator.")
    if response.status == 421:
        raise BadUpstream(
            f"The {upstream.name} service is asked under a name that it does not know. Tell the operator to add it to "
            "that service's ALLOWED_HOSTS."
        )
    headers = dict(response.headers)
    if not _SECONDS.fullmatch(headers.get("retry-after", "")):
        headers.pop("retry-after", None)
    if response.status == 503:
        headers.setdefault("retry-after", str(int(RETRY_AFTER_SECONDS)))
    # The body of a 500 may hold an exception's text, with paths in it: it is not passed on.
    if response.status == 500 or not _is_error(request_parsing.json_fields(body).get("error")):
        type_ = "server_error" if response.status >= 500 else "invalid_request_error"
        message = f"The {upstream.name} service answered with status {response.status}."
        body = error_body(message, type_, f"http_{response.status}")
    headers["content-type"] = "application/json"
    return CompleteResponse(body, response.status, headers)


def _is_error(error: object) -> bool:
    return isinstance(error, Mapping) and set(error) == _ERROR_FIELDS and isinstance(error["message"], str)
