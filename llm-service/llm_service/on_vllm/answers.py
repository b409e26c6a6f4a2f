"""vLLM's own error answers, put into the shape that all services share."""

import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi.dependencies.utils import request_body_to_args
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from onecard import logs
from onecard.errors import InvalidRequest, error_body

_CODES = {
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
_RETRY = {429, 503}
_PATH = re.compile(r"(?:/[\w.\-]+){2,}")
_READINESS = "/health/ready"
"""Its 503 has a shape of its own."""

log = logs.logger()


class OneErrorShape:
    """ASGI layer that holds back an answer with an error status and sends it on rewritten. Streams pass untouched."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http" or scope["path"] == _READINESS:
            await self._app(scope, receive, send)
            return
        try:
            await self._app(scope, receive, Rewriter(send, engine_failed=lambda: engine_failed(scope)))
        except Exception as error:
            if raised_by_the_body(error):
                log.warning("a check of the body failed", error=type(error).__name__)
                message = "A field of the body has a type that it cannot have. GET /openapi.json lists the types."
                raise InvalidRequest(message) from error
            raise


def raised_by_the_body(error: Exception) -> bool:
    """The body was being read into its fields: some of vLLM's checks run before those of types, and take a list for a
    mapping."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code is request_body_to_args.__code__ for frame, _ in frames)


def engine_failed(scope: Scope) -> bool:
    """The engine process has died; the server ends soon, and a supervisor starts another one."""
    errored: bool = scope["app"].state.engine_client.errored
    return errored


@dataclass
class Rewriter:
    """A `send` that rewrites errors."""

    send: Send
    engine_failed: Callable[[], bool]
    held: Message | None = None
    body: bytes = b""

    async def __call__(self, message: Message) -> None:
        """Pass the answer on, or hold it until it is whole."""
        if message["type"] == "http.response.start" and message["status"] >= 400:
            self.held = message
        elif self.held is None:
            await self.send(message)
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._send_rewritten(self.held)

    async def _send_rewritten(self, start: Message) -> None:
        status: int = start["status"]
        if status == 500 and self.engine_failed():
            status = 503  # What failed is the engine and not the request: the same one may succeed soon.
        body = rewrite(status, self.body)
        kept = [(k, v) for k, v in start["headers"] if k.lower() in (b"allow", b"retry-after")]
        kept += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if status in _RETRY and not any(name.lower() == b"retry-after" for name, _ in kept):
            kept.append((b"retry-after", b"1"))
        await self.send({**start, "status": status, "headers": kept})
        await self.send({"type": "http.response.body", "body": body})


def rewrite(status: int, body: bytes) -> bytes:
    """The error `body` of an answer with `status`, in the one shape, without paths of this machine."""
    error = _parse(body)
    code = error.get("code")
    if isinstance(code, str):
        return body  # It is in the shape already.
    message = str(error.get("message") or "")
    if status == 500 or not message:
        log.error("the engine failed on a request", status=status, engine_type=str(error.get("type")))
        message = "The engine cannot answer now. Try again." if status == 503 else "The engine failed on this request."
    param = error.get("param")
    type_ = "invalid_request_error" if status < 500 else "server_error"
    return error_body(_PATH.sub("…", message), type_, _code(status, param), param if isinstance(param, str) else None)


def _code(status: int, param: Any) -> str:
    if status == 404 and param == "model":
        return "model_not_found"
    return _CODES.get(status, "internal_error" if status >= 500 else "invalid_value")


def _parse(body: bytes) -> dict[str, Any]:
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(parsed, dict):
        return {}
    error = parsed.get("error", parsed)
    return error if isinstance(error, dict) else {"message": error}
