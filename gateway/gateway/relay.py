"""One request to one service and back: bytes in, bytes out, nothing buffered that need not be."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from urllib.parse import parse_qsl, quote, urlencode

from fastapi.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from typing_extensions import override

from gateway.calls import Call, send
from gateway.deadlines import Deadline
from gateway.keys.ring import Key
from gateway.reply import RETRY_AFTER_SECONDS, Reply
from gateway.upstreams import Upstream
from onecard import logs
from onecard.errors import BadUpstream, OnecardError, Unavailable, error_body
from onecard.web import request_parsing
from onecard.web.buffer_semaphore import BufferLease
from onecard.web.disconnect import ClientDisconnected, cancel_on_disconnect
from onecard.web.middleware import request_state

FORWARDED = frozenset(
    b"accept cache-control content-type traceparent tracestate x-onecard-lane x-onecard-timeout-ms x-request-id".split()
)
"""The client's headers that a service gets. A list of what may pass: everything else stays outside."""
PIECE_BYTES = 64 * 1024
"""Of a whole answer so much is given to the server at a time."""
LAST_WORDS_SECONDS = 1.0
"""After a request's time: in it, a client that reads hears of that."""
_ERROR_FIELDS = {"message", "type", "param", "code"}
_SECONDS = re.compile(r"[0-9]{1,9}")

log = logs.logger()


def call_of(scope: Scope) -> Call:
    """What a request asks a service: the same path and body, and of a GET the same query.

    Path and query are written anew from what was read of them, so that the service reads the same.
    """
    state = request_state(scope)
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        if name in FORWARDED:
            field, line = name.decode(), value.decode("latin-1")
            # A field that comes in several lines is one list (RFC 9110, section 5.3).
            headers[field] = f"{headers[field]}, {line}" if field in headers else line
    # What takes a POST has no ids in its path.
    path = scope["path"] if scope["method"] == "POST" else quote(scope["path"])
    if scope["method"] == "GET" and scope["query_string"]:
        path += "?" + urlencode(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
    key: Key | None = state.get("caller")
    return Call(scope["method"], path, headers, state["body"], state["trail"], key.name if key else "", state["held"])


async def relay(
    scope: Scope,
    receive: Receive,
    upstream: Upstream,
    call: Call | None = None,
    on_whole: Callable[[Reply, bytes], None] | None = None,
) -> Response:
    """Send the request to the same path of `upstream` and answer with what comes back.

    Whatever streams or is long is passed on chunk by chunk. When the client leaves, the service's work is cancelled by
    closing the connection to it. `call` is what `call_of` makes of the request, where it has been made already;
    `on_whole` is given an answer that is neither, with its body.

    Raises:
        TooBusy, Unavailable, BadUpstream, DeadlineExceeded: too many wait for the service, there is no room for the
            answer, or the service is away, broke off, or is silent for too long.
    """
    with cancel_on_disconnect(receive):
        reply = await send(call or call_of(scope), upstream)
        request_state(scope)["timings"].update(reply.timings)
        if reply.streams or (reply.status < 300 and not reply.is_whole):
            return _Relayed(reply)
        try:
            body = await reply.read()
        finally:
            reply.close()
    if on_whole is not None:
        on_whole(reply, body)
    return whole_answer(reply, body, upstream)


class CutOff(Exception):
    """The answer cannot be finished, and its beginning is out: the server has to break the connection."""


class Streamed(StreamingResponse):
    """Chunks as they come, until the client leaves, or the time of its request is over.

    Starlette's own cancels through anyio, which waits for a moment at which no data has come: from a fast service there
    is none, and it would be read on and on for nobody.
    """

    says_why = True
    """An answer that cannot be finished ends with an error event, so that no client takes that for the end: the service
    broke off, or the gateway stops. What is no stream of events has no place for it."""

    def __init__(self, chunks: AsyncIterator[bytes], status: int, headers: Mapping[str, str], deadline: Deadline):
        super().__init__(chunks, status, headers)
        self._deadline = deadline

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with cancel_on_disconnect(receive) as client:
            try:
                async with asyncio.timeout(self._deadline.left + LAST_WORDS_SECONDS) as limit:
                    await self._send(client, limit, send)
            except TimeoutError:
                log.info("client reads too slowly", path=scope["path"])
                raise ClientDisconnected from None  # Nothing that it was told would get there.

    async def _send(self, client: cancel_on_disconnect, limit: asyncio.Timeout, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for chunk in self.body_iterator:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except asyncio.CancelledError:
            if self.says_why and not client.disconnected and not limit.expired():
                await send({"type": "http.response.body", "body": error_event(_stopping())})
            raise
        except OnecardError as error:
            if not self.says_why:
                raise CutOff from None
            await send({"type": "http.response.body", "body": error_event(error), "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class _Relayed(Streamed):
    """A reply's chunks as they come.

    The reply is closed here and not in the generator: one that is never started, since the client has left by then,
    never comes to its end, and one that is left at a `yield` does so when it is collected.
    """

    def __init__(self, reply: Reply) -> None:
        headers = reply.headers if reply.length is None else {**reply.headers, "content-length": reply.length}
        super().__init__(reply.chunks(), reply.status, headers, reply.deadline)
        self.says_why = reply.streams
        self._reply = reply

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._reply.close()


class Whole(Response):
    """An answer that is here, in pieces that each wait until the client has taken the one before."""

    held: BufferLease | None = None
    """What counts it, if it is not the request that does."""

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if len(self.body) <= PIECE_BYTES:
            await super().__call__(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for begin in range(0, len(self.body), PIECE_BYTES):
            piece = self.body[begin : begin + PIECE_BYTES]
            await send({"type": "http.response.body", "body": bytes(piece), "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def _stopping() -> Unavailable:
    return Unavailable("The gateway is stopping, and the answer is not finished. Ask again.")


def error_event(error: OnecardError) -> bytes:
    """An error in the middle of a stream.

    Chunks are not events: the service may have broken off inside one, which the empty line ends.
    """
    return b"\n\ndata: " + error_body(str(error.detail), error.type, error.code) + b"\n\n"


def within(seconds: float, response: Response) -> ASGIApp:
    """The same, for so many seconds at most. What streams knows its time, and what is short is gone at once."""
    if not isinstance(response, Whole) or len(response.body) <= PIECE_BYTES:
        return response

    async def send_in_time(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(seconds):
                await response(scope, receive, send)
        except TimeoutError:
            raise ClientDisconnected from None

    return send_in_time


def whole_answer(reply: Reply, body: bytes, upstream: Upstream) -> Whole:
    """A service's answer that does not stream; an error is put into the one shape.

    Raises:
        BadUpstream: it is our own key that the service refuses, or our setting that leads to something else.
    """
    if reply.status >= 400:
        return _error_answer(reply, body, upstream)
    if reply.status >= 300:
        raise BadUpstream(f"The {upstream.name} service redirects the gateway. Tell the operator to check its address.")
    return Whole(body, reply.status, reply.headers)


def _error_answer(reply: Reply, body: bytes, upstream: Upstream) -> Whole:
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
    return Whole(body, reply.status, headers)


def _is_error(error: object) -> bool:
    return isinstance(error, Mapping) and set(error) == _ERROR_FIELDS and isinstance(error["message"], str)
