"""Whether an answer is whole: only those are kept. Pure."""

from collections.abc import Mapping
from typing import Any

import orjson

from onecard.cache.keys import CacheKind

_FINISH_REASONS = frozenset({"stop", "length", "tool_calls", "function_call", "repetition"})
"""How a choice ends when the model was done with it. Not among them: `abort`, `error`, null."""
_DONE = b"[DONE]"


def is_complete_response(kind: CacheKind, body: bytes) -> bool:
    """Whether `body`, of an answer with status 200, has all that was asked for."""
    answer = _parsed(body)
    if not isinstance(answer, Mapping) or "error" in answer:
        return False
    if kind == "generate":
        return answer.get("finish_reason") in _FINISH_REASONS
    choices = answer.get("choices")
    return isinstance(choices, list) and bool(choices) and all(_has_finished(choice) for choice in choices)


def is_complete_stream(events: bytes) -> bool:
    """Whether an event stream, from its first byte on, has come to its end: every choice, and the closing `[DONE]`."""
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
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
