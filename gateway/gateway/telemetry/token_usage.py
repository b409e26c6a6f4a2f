"""How many tokens one answer cost, counted as it passes. Pure."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

BYTES_PER_TOKEN = 4
"""What a token of text takes up, about, in English and in Korean UTF-8 alike."""
MAX_PARSED_BYTES = 1_000_000
"""Nothing is looked into of a longer line of a stream, and nothing estimated of a longer answer."""
MAX_READ_BYTES = 64 * 1024
"""Of a longer answer so much of its end is looked into, at least."""
_MAX_USAGE_BYTES = 4096
_TEXTS = ("content", "reasoning", "reasoning_content", "text")
"""Fields of an event of a stream that hold text."""
_USAGE_NAME = b'"usage"'
_USAGE_FIELD = re.compile(_USAGE_NAME + rb"\s*:\s*(?=\{)")
"""The field and nothing else: inside of a JSON string, the second quote would have a backslash before it."""
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class TokenUsage:
    """What an answer says that it cost, in tokens."""

    prompt: int
    completion: int
    total: int


class TokenUsageCounter:
    """Tokens of the prompt and of the answer together.

    They are what the answer's `usage` says. An answer without one is estimated: a token for `BYTES_PER_TOKEN` bytes of
    the request, and one for as many bytes of the answer, or of the text in a stream's events, each of which counts as
    one at least. A longer answer than is looked into is vectors, whose request says it all. An error costs nothing.
    """

    def __init__(self, asked_bytes: int, *, estimates: bool = True) -> None:
        """Take the length of the request's body. Without `estimates` only what the answer says is wanted, which saves
        reading each of a stream's events."""
        self._request_bytes = asked_bytes
        self._estimates = estimates
        self._status = 0
        self._is_stream = False
        self._stream_tokens = 0
        """Tokens in a stream's events so far, as estimated."""
        self._usage: TokenUsage | None = None
        self._is_parsed = False
        """Whether a whole answer has been looked into."""
        self._pending = bytearray()
        """A stream's incomplete line, or the end of the answer so far."""
        self._response_bytes = 0
        """Of an answer that is no stream, so far."""
        self._line_too_long = False
        """The stream's line is."""

    def begin(self, status: int, content_type: bytes) -> None:
        """The answer's first line and type."""
        self._status = status
        self._is_stream = self._estimates and content_type.startswith(b"text/event-stream")

    def feed(self, chunk: bytes) -> None:
        """A part of the answer's body."""
        if self._is_stream:
            *lines, rest = chunk.split(b"\n")
            for line in lines:
                self._append(line)
                self._end_line()
            self._append(rest)
        else:
            self._response_bytes += len(chunk)
            self._pending += chunk[-MAX_READ_BYTES:]
            if len(self._pending) > 2 * MAX_READ_BYTES:
                del self._pending[:-MAX_READ_BYTES]

    def usage(self) -> TokenUsage | None:
        """What a successful answer says, as far as it has come; None if it says nothing."""
        if not 200 <= self._status < 300:
            return None
        if not self._is_stream and not self._is_parsed:
            self._usage, self._is_parsed = _last_usage(self._pending), True
        return self._usage

    def tokens(self) -> int:
        """What it cost, as far as it has been answered."""
        if not 200 <= self._status < 300:
            return 0
        if usage := self.usage():
            return usage.total
        asked = -(-self._request_bytes // BYTES_PER_TOKEN)
        if self._is_stream:
            return asked + self._stream_tokens
        return asked + (self._response_bytes // BYTES_PER_TOKEN if self._response_bytes <= MAX_PARSED_BYTES else 0)

    def _append(self, chunk: bytes) -> None:
        """Add to the line of a stream."""
        if self._line_too_long:
            return
        self._pending += chunk
        if len(self._pending) > MAX_PARSED_BYTES:
            self._pending.clear()
            self._line_too_long = True

    def _end_line(self) -> None:
        """A line of a stream is complete."""
        line = bytes(self._pending)
        if self._line_too_long:
            self._stream_tokens += 1
        elif line.startswith(b"data:") and not line.startswith(b"data: [DONE]"):
            self._stream_tokens += max(1, sum(map(len, _texts(line))) // BYTES_PER_TOKEN)
        if _USAGE_NAME in line and line.startswith(b"data:"):
            self._usage = _usage_of_event(line) or self._usage
        self._pending.clear()
        self._line_too_long = False


def _last_usage(text: bytes | bytearray) -> TokenUsage | None:
    """What the last `usage` says, wherever it is: a whole answer of vectors would take a millisecond to parse."""
    field, at = None, len(text)
    while field is None:
        at = text.rfind(_USAGE_NAME, 0, at)
        if at < 0:
            return None
        field = _USAGE_FIELD.match(text, at)
    try:
        usage, _ = _DECODER.raw_decode(text[field.end() : field.end() + _MAX_USAGE_BYTES].decode(errors="replace"))
    except json.JSONDecodeError:
        return None
    return _parse_usage(usage)


def _usage_of_event(line: bytes) -> TokenUsage | None:
    """What an event of a stream says of itself, or of the response that it is about. What else is in it may be the
    caller's own: a response repeats the tools that it was asked with, and who leaves would pay what they say."""
    try:
        event = orjson.loads(line.removeprefix(b"data:"))
        return _parse_usage((event.get("response") or event).get("usage"))
    except (orjson.JSONDecodeError, AttributeError):
        return None


def _parse_usage(usage: Any) -> TokenUsage | None:
    if not isinstance(usage, dict):
        return None
    total = _count(usage, "total_tokens")
    if total is None:
        return None
    prompt = _count(usage, "prompt_tokens", "input_tokens")
    completion = _count(usage, "completion_tokens", "output_tokens")
    return TokenUsage(prompt or 0, completion or 0, total)


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
