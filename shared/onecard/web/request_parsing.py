"""Strict reading of what clients send. Pure functions over bytes."""

import math
import re
from collections.abc import Mapping
from typing import Any

import orjson

from onecard.errors import InvalidJson, InvalidRequest, UnsupportedMedia

TIMEOUT_HEADER = "x-onecard-timeout-ms"
"""How long the client goes on waiting, in ms; it can only shorten a service's own limit."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}")
_NUL_ESCAPE = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def parse_json(body: bytes) -> Any:
    """`body` as Python objects.

    Refused beside malformed JSON: text that is not UTF-8, lone surrogates (no tokenizer and no database
    takes them), NaN and infinities, NUL characters, and nesting beyond orjson's limit.

    Raises:
        InvalidJson: with the position of the fault; the text itself is not repeated.
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
    """The fields of a body that somebody else will check; none of one that is no JSON object."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def media_type(content_type: bytes | None) -> bytes:
    """The type alone, without parameters, in lower case; empty if there is none."""
    return (content_type or b"").split(b";", 1)[0].strip().lower()


def require_json_type(content_type: bytes | None) -> None:
    """Accept `application/json` and its kin, with any parameters.

    Raises:
        UnsupportedMedia: any other type, or none.
    """
    essence = media_type(content_type)
    if essence != b"application/json" and not essence.endswith(b"+json"):
        raise UnsupportedMedia("Send the body as JSON, with the header 'content-type: application/json'.")


def clean_request_id(value: bytes | None) -> str | None:
    """The client's request id if it is safe to log and to send on, else None."""
    if value is None:
        return None
    text = value.decode("latin-1")
    return text if _REQUEST_ID.fullmatch(text) else None


def timeout_seconds(headers: Mapping[str, str], most: float) -> float:
    """How long the client waits by `TIMEOUT_HEADER`, in seconds: at most `most`, which holds without the header.

    Raises:
        InvalidRequest: the header has a value that means nothing.
    """
    given = headers.get(TIMEOUT_HEADER)
    if given is None:
        return most
    try:
        milliseconds = float(given)
    except ValueError:
        milliseconds = math.nan
    if not 0 < milliseconds < math.inf:
        raise InvalidRequest(f"{TIMEOUT_HEADER} is a number of milliseconds above 0.", param=TIMEOUT_HEADER)
    return min(most, milliseconds / 1000)
