"""How many tokens one answer cost, counted as it passes. Pure."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

BYTES_PER_TOKEN = 4
"""What a token of text takes up, about, in English and in Korean UTF-8 alike."""
MOST_PARSED_BYTES = 1_000_000
"""Nothing is looked into of a longer line of a stream, and nothing estimated of a longer answer."""
MOST_READ_BYTES = 64 * 1024
"""Of a longer answer so much of its end is looked into, at least."""
_MOST_USAGE_BYTES = 4096
_TEXTS = ("content", "reasoning", "reasoning_content", "text")
"""Fields of an event of a stream that hold text."""
_NAME = b'"usage"'
_FIELD = re.compile(_NAME + rb"\s*:\s*(?=\{)")
"""The field and nothing else: inside of a JSON string, the second quote would have a backslash before it."""
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class Usage:
    """What an answer says that it cost, in tokens."""

    prompt: int
    completion: int
    total: int


class Meter:
    """Tokens of the prompt and of the answer together.

    They are what the answer's `usage` says. An answer without one is estimated: a token for `BYTES_PER_TOKEN` bytes of
    the request, and one for as many bytes of the answer, or of the text in a stream's events, each of which counts as
    one at least. A longer answer than is looked into is vectors, whose request says it all. An error costs nothing.
    """

    def __init__(self, asked_bytes: int, *, estimates: bool = True) -> None:
        """Take the length of the request's body. Without `estimates` only what the answer says is wanted, which saves
        reading each of a stream's events."""
        self._asked_bytes = asked_bytes
        self._estimates = estimates
        self._status = 0
        self._is_stream = False
        self._streamed = 0
        """Tokens in a stream's events so far, as estimated."""
        self._found: Usage | None = None
        self._read = False
        """Whether a whole answer has been looked into."""
        self._held = bytearray()
        """A stream's incomplete line, or the end of the answer so far."""
        self._bytes = 0
        """Of an answer that is no stream, so far."""
        self._too_long = False
        """The stream's line is."""

    def begins(self, status: int, content_type: bytes) -> None:
        """The answer's first line and type."""
        self._status = status
        self._is_stream = self._estimates and content_type.startswith(b"text/event-stream")

    def answered(self, chunk: bytes) -> None:
        """A part of the answer's body."""
        if self._is_stream:
            *lines, rest = chunk.split(b"\n")
            for line in lines:
                self._hold(line)
                self._line()
            self._hold(rest)
        else:
            self._bytes += len(chunk)
            self._held += chunk[-MOST_READ_BYTES:]
            if len(self._held) > 2 * MOST_READ_BYTES:
                del self._held[:-MOST_READ_BYTES]

    def usage(self) -> Usage | None:
        """What a successful answer says, as far as it has come; None if it says nothing."""
        if not 200 <= self._status < 300:
            return None
        if not self._is_stream and not self._read:
            self._found, self._read = _usage(self._held), True
        return self._found

    def tokens(self) -> int:
        """What it cost, as far as it has been answered."""
        if not 200 <= self._status < 300:
            return 0
        if usage := self.usage():
            return usage.total
        asked = -(-self._asked_bytes // BYTES_PER_TOKEN)
        if self._is_stream:
            return asked + self._streamed
        return asked + (self._bytes // BYTES_PER_TOKEN if self._bytes <= MOST_PARSED_BYTES else 0)

    def _hold(self, chunk: bytes) -> None:
        """Add to the line of a stream."""
        if self._too_long:
            return
        self._held += chunk
        if len(self._held) > MOST_PARSED_BYTES:
            self._held.clear()
            self._too_long = True

    def _line(self) -> None:
        """A line of a stream is complete."""
        line = bytes(self._held)
        if self._too_long:
            self._streamed += 1
        elif line.startswith(b"data:") and not line.startswith(b"data: [DONE]"):
            self._streamed += max(1, sum(map(len, _texts(line))) // BYTES_PER_TOKEN)
        if _NAME in line and line.startswith(b"data:"):
            self._found = _usage_of_event(line) or self._found
        self._held.clear()
        self._too_long = False


def _usage(text: bytes | bytearray) -> Usage | None:
    """What the last `usage` says, wherever it is: a whole answer of vectors would take a millisecond to parse."""
    field, at = None, len(text)
    while field is None:
        at = text.rfind(_NAME, 0, at)
        if at < 0:
            return None
        field = _FIELD.match(text, at)
    try:
        usage, _ = _DECODER.raw_decode(text[field.end() : field.end() + _MOST_USAGE_BYTES].decode(errors="replace"))
    except json.JSONDecodeError:
        return None
    return _read(usage)


def _usage_of_event(line: bytes) -> Usage | None:
    """What an event of a stream says of itself, or of the response that it is about. What else is in it may be the
    caller's own: a response repeats the tools that it was asked with, and who leaves would pay what they say."""
    try:
        event = orjson.loads(line.removeprefix(b"data:"))
        return _read((event.get("response") or event).get("usage"))
    except (orjson.JSONDecodeError, AttributeError):
        return None


def _read(usage: Any) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    total = _count(usage, "total_tokens")
    if total is None:
        return None
    prompt = _count(usage, "prompt_tokens", "input_tokens")
    completion = _count(usage, "completion_tokens", "output_tokens")
    return Usage(prompt or 0, completion or 0, total)


def _texts(line: bytes) -> Iterator[bytes]:
    """What an event of a stream adds to the answer: engines may put many tokens into one."""
    try:
        event = orjson.loads(line.removeprefix(b"data:"))
        for choice in event["choices"]:
            delta = choice.get("delta") or choice
            said = [delta.get(name) for name in _TEXTS]
            said += [call.get("function", {}).get("arguments") for call in delta.get("tool_calls") or ()]
            yield from (text.encode() for text in said if isinstance(text, str))
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, UnicodeEncodeError):
        return  # It is no event of chat or of completions.


def _count(usage: dict[str, Any], *names: str) -> int | None:
    """The first of these fields that is a number of tokens; the Responses API has names of its own for them."""
    return next((value for name in names if isinstance(value := usage.get(name), int) and value >= 0), None)
