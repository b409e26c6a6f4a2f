"""One connection to Redis, shared by all requests of the process.

Requests are written one after another and answered in that order, so that nobody waits for a connection. A request
whose caller has left is still read to its end and thrown away. Once anything is wrong with the stream, the connection
is aborted and never used again: no answer can reach another request's caller.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from onecard.cache.resp import Parser, ProtocolViolation, Reply

ANSWER_SECONDS = 0.05
"""Longest wait for Redis, from the call to the last byte of its answer."""

_GRACE_SECONDS = 0.005
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
    sent_at: float
    timer: asyncio.TimerHandle | None = None
    replies: list[Reply] = field(default_factory=list)


class Link(asyncio.Protocol):
    """A connection that asyncio has opened, and its unanswered requests."""

    def __init__(self, on_broken: Callable[[str], None], on_slow: Callable[[], None]) -> None:
        """Call `on_broken` with the reason once when the connection ends, unless `close` was called; `on_slow` when an
        answer is late though data flows.
        """
        self._on_broken = on_broken
        self._on_slow = on_slow
        self._loop = asyncio.get_running_loop()
        self._parser = Parser()
        self._pending: deque[_Pending] = deque()
        self._transport: asyncio.Transport | None = None
        self._heard_at = 0.0
        self._dead = False

    @property
    def alive(self) -> bool:
        """Requests can be sent."""
        return self._transport is not None and not self._dead

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  (a stream protocol gets nothing else)
        self._transport = transport

    def request(self, payload: bytes, replies: int) -> "asyncio.Future[list[Reply]]":
        """Send commands; the future has their `replies` replies, or a `LinkFailure` after `ANSWER_SECONDS`.

        Cancelling the future takes nothing back and disturbs nobody.
        """
        answer: asyncio.Future[list[Reply]] = self._loop.create_future()
        if self._transport is None or self._dead:
            answer.set_exception(LinkFailure("closed"))
            return answer
        if len(self._pending) >= _MOST_UNANSWERED:
            answer.set_exception(LinkFailure("busy"))
            return answer
        pending = _Pending(answer, replies, self._loop.time())
        pending.timer = self._loop.call_later(ANSWER_SECONDS - _GRACE_SECONDS, self._last_chance, pending)
        self._pending.append(pending)
        self._transport.write(payload)
        return answer

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        if self._dead:
            return
        self._heard_at = self._loop.time()
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

    def _last_chance(self, pending: _Pending) -> None:
        pending.timer = self._loop.call_later(_GRACE_SECONDS, self._out_of_time, pending)

    def _out_of_time(self, pending: _Pending) -> None:
        """Half the wait without a byte is a silent server; a busy link that is still delivering only fails this one."""
        pending.timer = None
        if self._loop.time() - max(self._heard_at, pending.sent_at) >= ANSWER_SECONDS / 2:
            self._break("silent")
            return
        if not pending.answer.done():
            pending.answer.set_exception(LinkFailure("slow"))
        self._on_slow()

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
