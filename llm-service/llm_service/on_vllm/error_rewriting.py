"""Rewrites vLLM's error responses into the error format that all services share."""

import re
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi.dependencies.utils import request_body_to_args
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from vllm.entrypoints.serve.exception_handling.error_response import create_error_response

from llm_service.request_limits import has_grammar
from onecard import logs
from onecard.errors import InvalidRequest, error_body
from onecard.web.middleware import request_state

_ERROR_CODES = {
    400: "invalid_value",
    401: "invalid_api_key",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
    422: "invalid_value",
    429: "rate_limited",
    501: "not_supported",
    503: "unavailable",
    504: "deadline_exceeded",
}
_RETRY_AFTER_STATUSES = {429, 503}
_FILE_PATH = re.compile(r"(?:/[\w.\-]+){2,}")
_ERROR_EVENT = b'data: {"error"'
_FAILED_WHILE_WRITING = "Internal server error"
"""vLLM's message when the engine aborts a generation: the grammar does not compile, or allows no further token."""
_READINESS = frozenset({"/health", "/health/ready"})
"""Passed through: their 503 is a readiness report, not an error."""

log = logs.logger()


class ErrorFormatMiddleware:
    """ASGI middleware that rewrites error responses and errors inside event streams. Other responses pass unchanged."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, with a `send` that rewrites errors.

        Args:
            scope: The connection's scope.
            receive: Passed on.
            send: Receives the response, rewritten if it is an error.

        Raises:
            InvalidRequest: vLLM raised an exception of its own while it parsed the body.
            Exception: Any other exception that was raised before a stream began; the outer middleware answers it.
        """
        if scope["type"] != "http" or scope["path"] in _READINESS:
            await self._app(scope, receive, send)
            return
        constrained = has_grammar(request_state(scope).get("json"))
        rewriter = ErrorRewriter(send, engine_failed=lambda: engine_failed(scope), has_grammar=constrained)
        try:
            await self._app(scope, receive, rewriter)
        except Exception as error:
            if raised_while_parsing_body(error):
                log.warning("a check of the body failed", error=type(error).__name__)
                message = "A field of the body has a type that it cannot have. GET /openapi.json lists the types."
                raise InvalidRequest(message) from error
            if not rewriter.streaming:
                raise
            log.exception("a stream failed")
            await rewriter.fail(create_error_response(_original_error(error)).model_dump()["error"])


def _original_error(error: Exception) -> Exception:
    """The exception that ended a stream. Starlette wraps it in a RuntimeError, because the response has begun."""
    cause = error.__cause__
    return cause if isinstance(error, RuntimeError) and isinstance(cause, Exception) else error


def raised_while_parsing_body(error: Exception) -> bool:
    """Whether an exception comes from parsing the body.

    Some of vLLM's validators run before the types are checked, and fail with a TypeError or the like on a body such as
    a list in place of an object. That is the client's mistake, not an internal error.

    Args:
        error: An exception with its traceback.

    Returns:
        Whether FastAPI was parsing the body when it was raised.
    """
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code is request_body_to_args.__code__ for frame, _ in frames)


def engine_failed(scope: Scope) -> bool:
    """Whether the engine process has died. The server then ends, and the supervisor restarts it."""
    errored: bool = scope["app"].state.engine_client.errored
    return errored


@dataclass
class ErrorRewriter:
    """An ASGI `send` that rewrites errors.

    vLLM starts a stream with status 200 before it knows whether it can answer. It then sends an error as an event and
    ends the stream with `[DONE]`, as if it was complete. Here the start of a stream is held back until its first event:
    if that is an error, the response is an error response with its status. A later error ends the stream.
    """

    send: Send
    engine_failed: Callable[[], bool]
    """Returns whether the engine process has died."""
    has_grammar: bool = False
    """Whether the request has a grammar that the answer must follow."""
    held_start: Message | None = None
    """The response's start while it is held back; None once it was sent."""
    streaming: bool = False
    """Whether the response is an event stream that has not ended."""
    failed: bool = False
    """Whether an error was sent; everything after it is dropped."""
    body: bytes = b""
    """The body of an error response, as far as it has come."""

    async def __call__(self, message: Message) -> None:
        """Send a message on, or hold an error response back until it is complete."""
        if message["type"] == "http.response.start":
            self.streaming = message["status"] < 400 and _is_stream(message)
            if self.streaming or message["status"] >= 400:
                self.held_start = message
            else:
                await self.send(message)
        elif message["type"] == "http.response.body" and self.streaming:
            await self._pass_events(message)
        elif message["type"] == "http.response.body" and self.held_start is not None:
            self.body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._send_error(self.held_start["status"], _parse(self.body), self.body)
        elif not self.failed:
            await self.send(message)

    async def _pass_events(self, message: Message) -> None:
        data: bytes = message.get("body", b"")
        if data.startswith(_ERROR_EVENT):
            await self.fail(_parse(data[len(b"data: ") :]))
            return
        if self.held_start is not None and (data or not message.get("more_body", False)):
            start, self.held_start = self.held_start, None
            await self.send(start)
        self.streaming = message.get("more_body", False)
        if self.held_start is None:
            await self.send(message)

    async def fail(self, error: Mapping[str, Any]) -> None:
        """End the stream with an error, and drop all later events.

        Args:
            error: vLLM's error object with `message`, `type`, `param` and `code`, an HTTP status.
        """
        self.streaming, self.failed = False, True
        code = error.get("code")
        status = code if isinstance(code, int) and 400 <= code < 600 else 500
        if self.held_start is not None:
            await self._send_error(status, error, b"")
            return
        event = b"data: " + self._rewritten(status, error)[1] + b"\n\n"
        await self.send({"type": "http.response.body", "body": event})

    def _rewritten(self, status: int, error: Mapping[str, Any]) -> tuple[int, bytes]:
        if status == 500 and self.engine_failed():
            status = 503  # The engine failed, not the request, so the client should retry.
        elif status == 500 and self.has_grammar and error.get("message") == _FAILED_WHILE_WRITING:
            error = {"message": "Nothing can be written that follows this grammar or schema. Change it."}
            status = 400
        return status, rewrite_error(status, error)

    async def _send_error(self, status: int, error: Mapping[str, Any], original_body: bytes) -> None:
        assert self.held_start is not None  # noqa: S101
        start, self.held_start = self.held_start, None
        self.failed = True
        body = original_body
        if not isinstance(error.get("code"), str):  # A text as the code means that it is in our format already.
            status, body = self._rewritten(status, error)
        headers = [(k, v) for k, v in start["headers"] if k.lower() in (b"allow", b"retry-after")]
        headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if status in _RETRY_AFTER_STATUSES and not any(name.lower() == b"retry-after" for name, _ in headers):
            headers.append((b"retry-after", b"1"))
        await self.send({**start, "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


def _is_stream(start: Message) -> bool:
    types = [value for name, value in start["headers"] if name.lower() == b"content-type"]
    return any(value.startswith(b"text/event-stream") for value in types)


def rewrite_error(status: int, error: Mapping[str, Any]) -> bytes:
    """Build our error body from vLLM's error.

    The message of a 500 is replaced, since it may be an exception's text, and logged without it. Paths of this host
    are removed from other messages.

    Args:
        status: HTTP status of the response.
        error: vLLM's error object.

    Returns:
        The body as JSON.
    """
    message = str(error.get("message") or "")
    if status == 500 or not message:
        log.error("the engine failed on a request", status=status, engine_type=str(error.get("type")))
        message = "The engine cannot answer now. Try again." if status == 503 else "The engine failed on this request."
    param = error.get("param")
    type_ = "invalid_request_error" if status < 500 else "server_error"
    return error_body(
        _FILE_PATH.sub("…", message), type_, _code(status, param), param if isinstance(param, str) else None
    )


def _code(status: int, param: Any) -> str:
    if status == 404 and param == "model":
        return "model_not_found"
    return _ERROR_CODES.get(status, "internal_error" if status >= 500 else "invalid_value")


def _parse(body: bytes) -> dict[str, Any]:
    """The error object in a body; empty if there is none."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(parsed, dict):
        return {}
    error = parsed.get("error", parsed)
    return error if isinstance(error, dict) else {"message": error}
