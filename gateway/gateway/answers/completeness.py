"""Whether a response is complete: only complete ones are cached. Pure."""

from collections.abc import Mapping
from typing import Any

import orjson

from onecard.cache.keys import CacheKind

_FINISH_REASONS = frozenset({"stop", "length", "tool_calls", "function_call", "repetition"})
"""Finish reasons of a choice that the model has completed. `abort`, `error` and null are not among them."""
_DONE = b"[DONE]"
MAX_PARSED_BYTES = 1_000_000
"""A longer response, or event of a stream, is not parsed, and so counts as incomplete: orjson takes up to 20 ms and
11 MB for a megabyte, and no other thread runs meanwhile. A response with `logprobs` may have over a hundred."""


def is_complete_response(kind: CacheKind, body: bytes) -> bool:
    """Whether a response has everything that was requested.

    Args:
        kind: of the route.
        body: of a response with status 200.

    Returns:
        True if all its choices are finished, it holds no error, and it is no longer than `MAX_PARSED_BYTES`.
    """
    response = _parsed(body)
    if not isinstance(response, Mapping) or "error" in response:
        return False
    if kind == "generate":
        return response.get("finish_reason") in _FINISH_REASONS
    choices = response.get("choices")
    return isinstance(choices, list) and bool(choices) and all(_has_finished(choice) for choice in choices)


def is_complete_stream(events: bytes) -> bool:
    """Whether an event stream has reached its end.

    Args:
        events: the whole stream.

    Returns:
        True if each choice is finished, there is no error, no event is longer than `MAX_PARSED_BYTES`, and `[DONE]` is
        the last one.
    """
    lines = [line[5:].strip() for line in events.splitlines() if line.startswith(b"data:")]
    if not events.endswith(b"\n\n") or not lines or lines.pop() != _DONE:
        return False
    begun: set[object] = set()
    ended: set[object] = set()
    for line in lines:
        event = _parsed(line)
        if not isinstance(event, Mapping) or "error" in event:
            return False
        for choice in event.get("choices") or ():
            begun.add(choice["index"])
            if choice.get("finish_reason") is not None:
                if not _has_finished(choice):
                    return False
                ended.add(choice["index"])
    return bool(begun) and begun == ended


def _has_finished(choice: Any) -> bool:
    return isinstance(choice, Mapping) and choice.get("finish_reason") in _FINISH_REASONS


def _parsed(data: bytes) -> Any:
    if len(data) > MAX_PARSED_BYTES:
        return None
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
