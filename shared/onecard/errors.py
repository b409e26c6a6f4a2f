"""Every error that a client can see, in OpenAI's error format.

OpenAI's SDKs raise their own exception classes for it: `{"error": {"message", "type", "param", "code"}}`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException


class OnecardError(HTTPException):
    """An error response for the client. The message says what the client can change."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Describe the error.

        Args:
            message: for the client; holds no input text and no secret.
            param: the request field at fault; None if there is none.
            retry_after: seconds until a retry may succeed, sent as `Retry-After` (rounded up, at least 1); None sends
                no header.
            headers: further response headers.
        """
        wait = {} if retry_after is None else {"retry-after": str(max(1, math.ceil(retry_after)))}
        super().__init__(status_code=self.status, detail=message, headers={**(headers or {}), **wait})
        self.param = param


class InvalidRequest(OnecardError):
    """The request is well-formed, but a value in it is wrong."""

    status, type, code = 400, "invalid_request_error", "invalid_value"


class InvalidJson(OnecardError):
    """The body is not valid JSON, or holds text that cannot be stored as UTF-8."""

    status, type, code = 400, "invalid_request_error", "invalid_json"


class InputTooLong(OnecardError):
    """A text is longer than the model's window, and the request forbids truncation."""

    status, type, code = 400, "invalid_request_error", "input_too_long"


class MissingKey(OnecardError):
    """No API key came with the request."""

    status, type, code = 401, "authentication_error", "missing_api_key"


class InvalidKey(OnecardError):
    """The API key is unknown, revoked or malformed."""

    status, type, code = 401, "authentication_error", "invalid_api_key"


class ModelNotAllowed(OnecardError):
    """The caller's key does not include this model."""

    status, type, code = 403, "permission_error", "model_not_allowed"


class ModelNotFound(OnecardError):
    """This service does not serve the requested model."""

    status, type, code = 404, "invalid_request_error", "model_not_found"


class SlowRequest(OnecardError):
    """The client took too long to send its request."""

    status, type, code = 408, "invalid_request_error", "request_timeout"


class SlowReader(OnecardError):
    """The client reads a shared stream so slowly that it has fallen too far behind the other readers."""

    status, type, code = 408, "invalid_request_error", "slow_reader"


class BodyTooLarge(OnecardError):
    """The body is over the limit."""

    status, type, code = 413, "invalid_request_error", "body_too_large"


class UnsupportedMedia(OnecardError):
    """The content type of the body is not JSON."""

    status, type, code = 415, "invalid_request_error", "unsupported_media_type"


class UnknownHost(OnecardError):
    """The `Host` header names a host that this server does not serve."""

    status, type, code = 421, "invalid_request_error", "unknown_host"


class RateLimited(OnecardError):
    """The caller has used up its requests or tokens for this minute."""

    status, type, code = 429, "rate_limit_error", "rate_limit_exceeded"


class HeadersTooLarge(OnecardError):
    """The request line and headers are over the limit."""

    status, type, code = 431, "invalid_request_error", "headers_too_large"


class TooBusy(OnecardError):
    """The queue is too long to answer this request in time."""

    status, type, code = 429, "rate_limit_error", "too_busy"


class InternalError(OnecardError):
    """A bug or fault on our side. The log has its cause under the request id; the response never has."""


class BadUpstream(OnecardError):
    """An upstream service sent something that is not HTTP, or broke off its response."""

    status, type, code = 502, "server_error", "bad_upstream"


class Unavailable(OnecardError):
    """A service is down, starting or full; the same request may succeed later."""

    status, type, code = 503, "server_error", "unavailable"


class DeadlineExceeded(OnecardError):
    """The time limit passed before there was a response."""

    status, type, code = 504, "server_error", "deadline_exceeded"


def error_body(message: str, type_: str, code: str | None, param: str | None = None) -> bytes:
    """Serialise an error in OpenAI's format.

    Args:
        message: for the client.
        type_: OpenAI's error class, such as `invalid_request_error`.
        code: a machine-readable reason; None if there is none.
        param: the request field at fault; None if there is none.

    Returns:
        The JSON body, UTF-8.
    """
    return orjson.dumps({"error": {"message": message, "type": type_, "param": param, "code": code}})


def render(error: HTTPException) -> tuple[int, dict[str, str], bytes]:
    """Turn an exception into a response.

    Args:
        error: one of ours, or one that Starlette raised.

    Returns:
        The status, the headers (lower-case names) and the body.
    """
    headers = {"content-type": "application/json", **(error.headers or {})}
    if error.status_code == 401:
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, OnecardError):
        return error.status, headers, error_body(str(error.detail), error.type, error.code, error.param)
    type_ = "invalid_request_error" if error.status_code < 500 else "server_error"
    return error.status_code, headers, error_body(*_framework_message(error, type_))


def _framework_message(error: HTTPException, type_: str) -> tuple[str, str, str]:
    if error.status_code == 404:
        return "No such path. GET /openapi.json lists the paths.", type_, "not_found"
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "another method")
        return f"This path does not take that method; it takes {allow}.", type_, "method_not_allowed"
    return str(error.detail), type_, f"http_{error.status_code}"


def _validation_error(error: RequestValidationError) -> InvalidRequest:
    """Describe the first invalid field, without its value. Unions have one pydantic error per branch, joined here."""
    messages_by_field: dict[str | None, list[str]] = {}
    for issue in cast(Sequence[Mapping[str, Any] | str], error.errors()):
        if isinstance(issue, str):  # From a route that is not ours, and checks more than FastAPI does.
            return InvalidRequest(issue)
        path = [str(part) for part in issue["loc"][1:]]  # The first element is the location: body, query or path.
        messages_by_field.setdefault(path[0] if path else None, []).append(issue["msg"])
    param, messages = next(iter(messages_by_field.items()))
    where = f"'{param}'" if param else "The body"
    return InvalidRequest(f"{where}: {' / '.join(dict.fromkeys(messages))}.", param=param)


def _response(error: HTTPException) -> Response:
    status, headers, body = render(error)
    return Response(body, status, headers)


def install(app: FastAPI) -> None:
    """Make `app` answer every error in OpenAI's format.

    Args:
        app: gets handlers for HTTP exceptions and for validation errors.
    """

    async def on_http(_: Request, error: Exception) -> Response:
        return _response(cast(HTTPException, error))

    async def on_validation(_: Request, error: Exception) -> Response:
        return _response(_validation_error(cast(RequestValidationError, error)))

    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_validation)
