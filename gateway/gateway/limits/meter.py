"""How many tokens one answer cost, counted as it passes. Pure."""

from typing import Any

import orjson

BYTES_PER_TOKEN = 4
"""What a token of text takes up, about, in English and in Korean UTF-8 alike."""
MOST_PARSED_BYTES = 1_000_000
"""A longer answer, or line of a stream, is not parsed: it would hold up every other request."""


class Meter:
    """Tokens of the prompt and of the answer together.

    They are what the answer's `usage` says. An answer without one is estimated: a token for `BYTES_PER_TOKEN` bytes of
    the request, and one for each event of a stream (engines send one for each token) or for as many bytes of another
    answer. An answer too long to parse is vectors, whose request says it all. An error costs nothing.
    """

    def __init__(self, asked_bytes: int) -> None:
        """Take the length of the request's body."""
        self._asked_bytes = asked_bytes
        self._status = 0
        self._is_stream = False
        self._events = 0
        self._total: int | None = None
        self._held = bytearray()
        """A stream's incomplete line, or the answer so far."""
        self._too_long = False

    def begins(self, status: int, content_type: bytes) -> None:
        """The answer's first line and type."""
        self._status = status
        self._is_stream = content_type.startswith(b"text/event-stream")

    def answered(self, chunk: bytes) -> None:
        """A part of the answer's body."""
        if self._is_stream:
            *lines, rest = chunk.split(b"\n")
            for line in lines:
                self._hold(line)
                self._line()
            self._hold(rest)
        else:
            self._hold(chunk)

    def tokens(self) -> int:
        """What it cost, as far as it has been answered."""
        if not 200 <= self._status < 300:
            return 0
        if not self._is_stream and self._total is None and not self._too_long:
            self._total = _total(self._held)
        if self._total is not None:
            return self._total
        asked = -(-self._asked_bytes // BYTES_PER_TOKEN)
        return asked + (self._events if self._is_stream else len(self._held) // BYTES_PER_TOKEN)

    def _hold(self, chunk: bytes) -> None:
        if self._too_long:
            return
        self._held += chunk
        if len(self._held) > MOST_PARSED_BYTES:
            self._held.clear()
            self._too_long = True

    def _line(self) -> None:
        """A line of a stream is complete."""
        line = bytes(self._held)
        if self._too_long or (line.startswith(b"data:") and not line.startswith(b"data: [DONE]")):
            self._events += 1
        if b'"usage"' in line and line.startswith(b"data:"):
            found = _total(line.removeprefix(b"data:"))
            self._total = self._total if found is None else found
        self._held.clear()
        self._too_long = False


def _total(text: bytes | bytearray) -> int | None:
    """What `usage` says, at the top or in the `response` of an event of the Responses API; None if it says nothing."""
    try:
        answer = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    for holder in (answer, _field(answer, "response")):
        total = _field(_field(holder, "usage"), "total_tokens")
        if isinstance(total, int) and total >= 0:
            return total
    return None


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None
