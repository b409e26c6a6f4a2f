"""Every error a client can see, and the one shape all of them have.

The body is OpenAI's, so that its SDKs raise their own exception classes:
`{"error": {"message", "type", "param", "code"}}`.
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
    """An error with an answer for the client. The message says what to change."""

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
        wait = {} if retry_after is None else {"retry-after": str(max(1, math.ceil(retry_after)))}
        super().__init__(status_code=self.status, detail=message, headers={**(headers or {}), **wait})
        self.param = param


class InvalidRequest(OnecardError):
    """The request is understood and wrong."""

    status, type, code = 400, "invalid_request_error", "invalid_value"


class InvalidJson(OnecardError):
    """The body is not JSON that can be stored as UTF-8 text."""

    status, type, code = 400, "invalid_request_error", "invalid_json"


class InputTooLong(OnecardError):
    """A text is longer than the model's window and may not be cut."""

    status, type, code = 400, "invalid_request_error", "input_too_long"


class MissingKey(OnecardError):
    """No API key came with the request."""

    status, type, code = 401, "authentication_error", "missing_api_key"


class InvalidKey(OnecardError):
    """An API key that does not count."""

    status, type, code = 401, "authentication_error", "invalid_api_key"


class ModelNotAllowed(OnecardError):
    """The caller's key is not for this model."""

    status, type, code = 403, "permission_error", "model_not_allowed"


class ModelNotFound(OnecardError):
    """No such model here."""

    status, type, code = 404, "invalid_request_error", "model_not_found"


class SlowRequest(OnecardError):
    """The client took too long to send its request."""

    status, type, code = 408, "invalid_request_error", "request_timeout"


class SlowReader(OnecardError):
    """The client takes a stream so slowly that the others who read it have got far ahead."""

    status, type, code = 408, "invalid_request_error", "slow_reader"


class BodyTooLarge(OnecardError):
    """The body is over the limit."""

    status, type, code = 413, "invalid_request_error", "body_too_large"


class UnsupportedMedia(OnecardError):
    """The body is not declared as JSON."""

    status, type, code = 415, "invalid_request_error", "unsupported_media_type"


class UnknownHost(OnecardError):
    """The request names a host that this server does not answer for."""

    status, type, code = 421, "invalid_request_error", "unknown_host"


class RateLimited(OnecardError):
    """The caller has used up its requests or tokens of this minute."""

    status, type, code = 429, "rate_limit_error", "rate_limit_exceeded"


class HeadersTooLarge(OnecardError):
    """The request's line and headers are over the limit."""

    status, type, code = 431, "invalid_request_error", "headers_too_large"


class TooBusy(OnecardError):
    """More is waiting than can be answered in time."""

    status, type, code = 429, "rate_limit_error", "too_busy"


class InternalError(OnecardError):
    """A fault of ours. Its cause is in the log under the request id, never in the answer."""


class BadUpstream(OnecardError):
    """A service answered with something that is not HTTP, or broke off."""

    status, type, code = 502, "server_error", "bad_upstream"


class Unavailable(OnecardError):
    """A service is down, starting or full; the same request may succeed later."""

    status, type, code = 503, "server_error", "unavailable"


class DeadlineExceeded(OnecardError):
    """No answer within the time limit."""

    status, type, code = 504, "server_error", "deadline_exceeded"


def error_body(message: str, type_: str, code: str | None, param: str | None = None) -> bytes:
    """The error shape, as JSON bytes."""
    return orjson.dumps({"error": {"message": message, "type": type_, "param": param, "code": code}})


def render(error: HTTPException) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to `error`."""
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
    """pydantic's complaints about the first field it complains of, without the value.

    For a union (`str | list[str]`) there is one complaint a branch.
    """
    complaints: dict[str | None, list[str]] = {}
    for one in cast(Sequence[Mapping[str, Any]], error.errors()):
        path = [str(part) for part in one["loc"][1:]]  # The first says where: in the body, the query, the path.
        complaints.setdefault(path[0] if path else None, []).append(one["msg"])
    param, messages = next(iter(complaints.items()))
    where = f"'{param}'" if param else "The body"
    return InvalidRequest(f"{where}: {' / '.join(dict.fromkeys(messages))}.", param=param)


def _response(error: HTTPException) -> Response:
    status, headers, body = render(error)
    return Response(body, status, headers)


def install(app: FastAPI) -> None:
    """Make `app` answer every error in the one shape."""

    async def on_http(_: Request, error: Exception) -> Response:
        return _response(cast(HTTPException, error))

    async def on_validation(_: Request, error: Exception) -> Response:
        return _response(_validation_error(cast(RequestValidationError, error)))

    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_validation)
