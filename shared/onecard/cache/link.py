"""One connection to Redis, shared by all requests of the process.

Requests are written one after another and answered in that order, so that nobody waits for a connection. A request
whose caller has left is still read to its end and thrown away. Once anything is wrong with the stream, the connection
is aborted and never used again: no answer can reach another request's caller.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from onecard.cache.resp import Parser, ProtocolViolation, Reply

ANSWER_SECONDS = 0.05
"""Longest wait for Redis, from the call to the last byte of its answer. Only one that fetches hundreds of values may
have more such periods, one at a time, as long as data flows: see `Link.request`."""

_FLOWING_BYTES = 256_000
"""What has to come in within a period for data to count as flowing: 5 MB/s."""

_GRACE_SECONDS = 0.01
"""Last part of the wait. When the event loop itself was held up, its timers run before it looks at the sockets;
an answer that has arrived meanwhile is read within the grace instead of being taken for a silent server."""

_MOST_UNANSWERED = 1024


class LinkFailure(Exception):
    """No answer. `reason` is one of: silent, slow, lost, protocol, busy, closed."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(eq=False)
class _Pending:
    """A request on its way."""

    answer: "asyncio.Future[list[Reply]]"
    missing: int
    patience: int
    received_before: int = 0
    """Bytes that the link had received when the present period began."""
    timer: asyncio.TimerHandle | None = None
    replies: list[Reply] = field(default_factory=list)


class Link(asyncio.Protocol):
    """A connection that asyncio has opened, and its unanswered requests."""

    def __init__(self, on_broken: Callable[[str], None], on_late: Callable[[], None]) -> None:
        """Call `on_broken` with the reason once when the connection ends, unless `close` was called; `on_late` when an
        answer is late though data flows.
        """
        self._on_broken = on_broken
        self._on_late = on_late
        self._loop = asyncio.get_running_loop()
        self._parser = Parser()
        self._pending: deque[_Pending] = deque()
        self._transport: asyncio.Transport | None = None
        self._received = 0
        self._dead = False

    @property
    def alive(self) -> bool:
        """Requests can be sent."""
        return self._transport is not None and not self._dead

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name.

    def request(self, payload: bytes, replies: int, patience: int = 0) -> "asyncio.Future[list[Reply]]":
        """Send commands; the future has their `replies` replies, or a `LinkFailure` after `ANSWER_SECONDS`.

        `patience` is how many times it may wait that long again, each time only if data has been flowing.
        Cancelling the future takes nothing back and disturbs nobody.
        """
        answer: asyncio.Future[list[Reply]] = self._loop.create_future()
        if self._transport is None or self._dead:
            answer.set_exception(LinkFailure("closed"))
            return answer
        if len(self._pending) >= _MOST_UNANSWERED:
            answer.set_exception(LinkFailure("busy"))
            return answer
        pending = _Pending(answer, replies, patience)
        self._wait(pending)
        self._pending.append(pending)
        self._transport.write(payload)
        return answer

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        if self._dead:
            return
        self._received += len(data)
        try:
            replies = self._parser.feed(data)
        except ProtocolViolation:
            self._break("protocol")
            return
        for reply in replies:
            if not self._pending:
                self._break("protocol")  # An answer to no question: the stream has lost its step.
                return
            self._take(reply)

    def _take(self, reply: Reply) -> None:
        pending = self._pending[0]
        pending.replies.append(reply)
        if len(pending.replies) < pending.missing:
            return
        self._pending.popleft()
        if pending.timer is not None:
            pending.timer.cancel()
        if not pending.answer.done():
            pending.answer.set_result(pending.replies)

    def _wait(self, pending: _Pending) -> None:
        pending.received_before = self._received
        pending.timer = self._loop.call_later(ANSWER_SECONDS - _GRACE_SECONDS, self._last_chance, pending)

    def _last_chance(self, pending: _Pending) -> None:
        pending.timer = self._loop.call_later(_GRACE_SECONDS, self._out_of_time, pending)

    def _out_of_time(self, pending: _Pending) -> None:
        """Give up the connection if its data does not flow, with the half of an answer that may be on it; else only
        this request, whose answer is read and thrown away when it comes.
        """
        pending.timer = None
        received = self._received - pending.received_before
        if received < _FLOWING_BYTES:
            self._break("slow" if received else "silent")
        elif pending.patience:
            pending.patience -= 1
            self._wait(pending)
        else:
            if not pending.answer.done():
                pending.answer.set_exception(LinkFailure("slow"))
            self._on_late()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._break("lost")

    def _break(self, reason: str) -> None:
        if not self._dead:
            self._end(reason)
            self._on_broken(reason)

    def close(self) -> None:
        """End the connection at once; unanswered requests fail."""
        if not self._dead:
            self._end("closed")

    def _end(self, reason: str) -> None:
        self._dead = True
        if self._transport is not None:
            self._transport.abort()  # Not close(): that would wait for a frozen server to take what is buffered.
        while self._pending:
            pending = self._pending.popleft()
            if pending.timer is not None:
                pending.timer.cancel()
            if not pending.answer.done():
                pending.answer.set_exception(LinkFailure(reason))
                pending.answer.exception()  # Retrieved: a caller that has left does not make asyncio complain.
