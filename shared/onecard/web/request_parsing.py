"""Strict parsing of requests. Pure functions over bytes."""

import math
import re
from collections.abc import Mapping
from typing import Any

import orjson

from onecard.errors import InvalidJson, InvalidRequest, UnsupportedMedia

TIMEOUT_HEADER = "x-onecard-timeout-ms"
"""How long the client waits, in ms; it can only shorten a service's own limit."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}")
_NUL_ESCAPE = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def parse_json(body: bytes) -> Any:
    """Parse a body strictly.

    Besides malformed JSON this refuses text that is not UTF-8, lone surrogates (which no tokenizer and no database
    accepts), NaN and infinities, NUL characters, and nesting beyond orjson's limit.

    Args:
        body: the bytes.

    Returns:
        The value.

    Raises:
        InvalidJson: with the position of the fault, but without the text.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidJson(
            f"The body is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})."
        ) from None
    if rb"\u0000" in body and _NUL_ESCAPE.search(body):
        raise InvalidJson("The body contains a NUL character (\\u0000). Remove it.")
    return value


def json_fields(body: bytes) -> Mapping[str, Any]:
    """Parse a body that another service will validate.

    Args:
        body: the bytes.

    Returns:
        Its fields; none if it is not a JSON object.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def media_type(content_type: bytes | None) -> bytes:
    """The media type in lower case, without parameters; empty if there is none."""
    return (content_type or b"").split(b";", 1)[0].strip().lower()


def require_json_type(content_type: bytes | None) -> None:
    """Accept `application/json` and types that end with `+json`, with any parameters.

    Args:
        content_type: value of the header; None if it is missing.

    Raises:
        UnsupportedMedia: it is another type, or missing.
    """
    essence = media_type(content_type)
    if essence != b"application/json" and not essence.endswith(b"+json"):
        raise UnsupportedMedia("Send the body as JSON, with the header 'content-type: application/json'.")


def clean_request_id(value: bytes | None) -> str | None:
    """Accept a client's request id if it is safe to log and to forward.

    Args:
        value: of the header; None if it is missing.

    Returns:
        The id; None if it is missing or unsafe.
    """
    if value is None:
        return None
    text = value.decode("latin-1")
    return text if _REQUEST_ID.fullmatch(text) else None


def timeout_seconds(headers: Mapping[str, str], max_seconds: float) -> float:
    """Read how long the client waits.

    Args:
        headers: of the request.
        max_seconds: the service's own limit.

    Returns:
        Seconds, at most `max_seconds`, which also holds without the header.

    Raises:
        InvalidRequest: the header is not a positive number.
    """
    value = headers.get(TIMEOUT_HEADER)
    if value is None:
        return max_seconds
    try:
        milliseconds = float(value)
    except ValueError:
        milliseconds = math.nan
    if not 0 < milliseconds < math.inf:
        raise InvalidRequest(f"{TIMEOUT_HEADER} is a number of milliseconds above 0.", param=TIMEOUT_HEADER)
    return min(max_seconds, milliseconds / 1000)
