"""Counts the tokens of a response while it passes. Pure."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from onecard.web import request_parsing

BYTES_PER_TOKEN = 4
"""Estimate for text in English as well as in Korean, in UTF-8."""
MAX_PARSED_BYTES = 1_000_000
"""Longer lines of a stream are not parsed, and tokens of longer responses are not estimated."""
MAX_READ_BYTES = 64 * 1024
"""At least this much of the end of a longer response is kept, when what came before has been searched for `usage`."""
_MAX_USAGE_BYTES = 4096
_TEXTS = ("content", "reasoning", "reasoning_content", "text")
"""Text fields of a stream's event."""
_USAGE_NAME = b'"usage"'
_USAGE_FIELD = re.compile(_USAGE_NAME + rb"\s*:\s*(?=\{)")
"""Matches the field only: within a JSON string, the second quote would have a backslash before it."""
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class TokenUsage:
    """The tokens that a response reports."""

    prompt: int
    completion: int
    total: int


class TokenUsageCounter:
    """Counts the tokens of prompt and response together.

    They are what `usage` reports. Without it they are estimated: a token for `BYTES_PER_TOKEN` bytes of the request,
    and the same for the response, or for the text in a stream's events, each of which has at least one. A response
    longer than `MAX_PARSED_BYTES` consists of vectors, so only its request counts. An error response costs nothing.
    """

    def __init__(self, request_bytes: int, *, estimates: bool = True) -> None:
        """Start before the response.

        Args:
            request_bytes: length of the request's body.
            estimates: whether tokens that are not reported are estimated. If not, the events of a stream need not be
                parsed.
        """
        self._request_bytes = request_bytes
        self._estimates = estimates
        self._status = 0
        self._is_stream = False
        self._stream_tokens = 0
        """Estimated tokens of a stream's events so far."""
        self._usage: TokenUsage | None = None
        """The last one found so far. Long fields may come behind it, such as `prompt_logprobs`."""
        self._is_partial = False
        """Whether that is one choice's alone, as far as its stream has got; others may have cost as much."""
        self._is_parsed = False
        """Whether a complete response has been searched."""
        self._pending = bytearray()
        """The incomplete line of a stream, or the end of the response so far."""
        self._response_bytes = 0
        """So far, of a response that is no stream."""
        self._line_too_long = False
        """Whether the current line of a stream is."""

    def begin(self, status: int, content_type: bytes) -> None:
        """Record the head of the response.

        Args:
            status: its HTTP status.
            content_type: its header.
        """
        self._status = status
        self._is_stream = self._estimates and content_type.startswith(b"text/event-stream")

    def feed(self, chunk: bytes) -> None:
        """Record a part of the body.

        Args:
            chunk: the part.
        """
        if self._is_stream:
            *lines, rest = chunk.split(b"\n")
            for line in lines:
                self._append(line)
                self._end_line()
            self._append(rest)
        else:
            self._response_bytes += len(chunk)
            self._pending += chunk
            if len(self._pending) > 2 * MAX_READ_BYTES:
                self._usage = _last_usage(self._pending) or self._usage
                del self._pending[:-MAX_READ_BYTES]

    def usage(self) -> TokenUsage | None:
        """What a successful response reports.

        Returns:
            Its tokens; None if it has reported none so far.
        """
        if not self._is_success:
            return None
        if not self._is_stream and not self._is_parsed:
            self._usage, self._is_parsed = _last_usage(self._pending) or self._usage, True
        return self._usage

    @property
    def is_made_before(self) -> bool:
        """Whether a successful response was made before it began: all but a stream, which is sent while it is made."""
        return self._is_success and not self._is_stream

    @property
    def _is_success(self) -> bool:
        return 200 <= self._status < 300

    def tokens(self) -> int:
        """The tokens of the request, for as much of the response as there is.

        Returns:
            Those reported, else the estimate; 0 for an error.
        """
        if not self._is_success:
            return 0
        usage = self.usage()
        if usage is not None and not self._is_partial:
            return usage.total
        prompt = -(-self._request_bytes // BYTES_PER_TOKEN)
        if self._is_stream:
            return max(prompt + self._stream_tokens, usage.total if usage is not None else 0)
        return prompt + (self._response_bytes // BYTES_PER_TOKEN if self._response_bytes <= MAX_PARSED_BYTES else 0)

    def _append(self, chunk: bytes) -> None:
        """Add to the current line of a stream."""
        if self._line_too_long:
            return
        self._pending += chunk
        if len(self._pending) > MAX_PARSED_BYTES:
            self._pending.clear()
            self._line_too_long = True

    def _end_line(self) -> None:
        """Evaluate a complete line of a stream."""
        line = bytes(self._pending)
        if self._line_too_long:
            self._stream_tokens += 1
        elif line.startswith(b"data:") and not line.startswith(b"data: [DONE]"):
            self._count_event(request_parsing.json_fields(line.removeprefix(b"data:")))
        self._pending.clear()
        self._line_too_long = False

    def _count_event(self, event: Mapping[str, Any]) -> None:
        self._stream_tokens += max(1, sum(map(len, _texts(event))) // BYTES_PER_TOKEN)
        # Only where the API has it: the Responses API repeats the requested tools, in which a client could make up one.
        response = event.get("response")
        usage = _parse_usage((response if isinstance(response, dict) else event).get("usage"))
        is_partial = bool(event.get("choices"))
        if usage is not None and (self._usage is None or self._is_partial or not is_partial):
            self._usage, self._is_partial = usage, is_partial


def _last_usage(text: bytes | bytearray) -> TokenUsage | None:
    """Find the last `usage` in a response, without parsing all of it: vectors would take a millisecond."""
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


def _parse_usage(usage: Any) -> TokenUsage | None:
    if not isinstance(usage, dict):
        return None
    total = _count(usage, "total_tokens")
    if total is None:
        return None
    prompt = _count(usage, "prompt_tokens", "input_tokens")
    completion = _count(usage, "completion_tokens", "output_tokens")
    return TokenUsage(prompt or 0, completion or 0, total)


def _texts(event: Mapping[str, Any]) -> Iterator[bytes]:
    """The text that a stream's event adds to the response. Engines may put many tokens into one event."""
    if isinstance(added := event.get("delta"), str):
        yield added.encode()  # The Responses API.
    try:
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or choice
            values = [delta.get(name) for name in _TEXTS]
            values += [call.get("function", {}).get("arguments") for call in delta.get("tool_calls") or ()]
            yield from (text.encode() for text in values if isinstance(text, str))
    except (TypeError, AttributeError):
        return  # Not an event of chat or completions.


def _count(usage: dict[str, Any], *names: str) -> int | None:
    """The first of these fields that is a number of tokens. The Responses API has other names for them."""
    return next((value for name in names if isinstance(value := usage.get(name), int) and value >= 0), None)
