"""The memory that all open streams hold together, and which of them give some back when it runs short."""

from collections.abc import Callable
from typing import Protocol

LONG_STREAMS_SHARE = 0.75
"""Memory is short beyond this share of it. The rest is for streams that are still short, each with the same part of it,
so that long streams whose readers stall do not keep others from being recorded."""
REDUCED_STREAM_BYTES = 128_000
"""What a stream may hold in any case, however many there are."""
STALLED_SECONDS = 30.0
"""A reader that has taken nothing for so long is cut off if memory is short and its stream holds more than its part."""
CHECK_SECONDS = 1.0
"""Pause between two looks at all streams."""


class BufferingStream(Protocol):
    """A stream that holds memory."""

    buffered_bytes: int
    """How much."""

    def shrink(self, max_bytes: int) -> None:
        """Hold no more than this from now on, as soon as what has been buffered has been read.

        Args:
            max_bytes: its new limit.
        """

    def cut_off_stalled(self, max_bytes: int, stalled_since: float) -> None:
        """Cut off readers that take nothing, the slowest first, until the stream holds no more than its limit.

        Args:
            max_bytes: the limit.
            stalled_since: when they took their last chunk at the latest, in seconds of the budget's clock.
        """


class StreamBudget:
    """Bytes that all streams hold together."""

    def __init__(self, max_bytes: int, clock: Callable[[], float]) -> None:
        """Start without streams.

        Args:
            max_bytes: limit of all streams together, though not an exact one: each may hold `REDUCED_STREAM_BYTES`.
            clock: monotonic seconds.
        """
        self._max_bytes = max_bytes
        self._streams: set[BufferingStream] = set()
        self._next_check = clock()
        self.clock = clock
        self.used_bytes = 0

    def count(self, stream: BufferingStream, more_bytes: int) -> None:
        """Count bytes that a stream holds more, or less, than before.

        Args:
            stream: with its new `buffered_bytes`.
            more_bytes: the difference.
        """
        self.used_bytes += more_bytes
        if stream.buffered_bytes:
            self._streams.add(stream)
        else:
            self._streams.discard(stream)

    @property
    def is_short(self) -> bool:
        """Whether streams hold more than long ones may."""
        return self.used_bytes > self._max_bytes * LONG_STREAMS_SHARE

    @property
    def part_bytes(self) -> int:
        """What each stream may hold while memory is short."""
        reserve = self._max_bytes * (1 - LONG_STREAMS_SHARE)
        return max(REDUCED_STREAM_BYTES, int(reserve / max(1, len(self._streams))))

    def relieve(self, growing: BufferingStream) -> None:
        """If memory is short, let streams that hold more than their part give some back.

        Args:
            growing: the stream that holds more than before. The others are looked at once in a while.
        """
        if not self.is_short:
            return
        if growing.buffered_bytes > (part := self.part_bytes):
            growing.shrink(part)
        now = self.clock()
        if now < self._next_check:
            return
        self._next_check = now + CHECK_SECONDS
        for stream in tuple(self._streams):
            if stream.buffered_bytes > part:
                stream.shrink(part)
                stream.cut_off_stalled(part, now - STALLED_SECONDS)
