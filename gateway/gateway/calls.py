"""One request to one service: what is asked, and what comes back. Bytes, no HTTP framework of ours."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from gateway import deadlines
from gateway.deadlines import Deadline
from gateway.pool import Lease
from gateway.replicas import Failure
from gateway.retries import AttemptFailed, failure_of
from gateway.trail import Trail
from gateway.transport import Answer, Fault, NoAnswer
from gateway.turns import Turn
from gateway.upstreams import Upstream
from onecard import logs, timings
from onecard.buffers import Buffers, Held
from onecard.cache import identity
from onecard.errors import BadUpstream, DeadlineExceeded, OnecardError, TooBusy, Unavailable
from onecard.timings import Timing

RETURNED = ("age", "allow", "content-type", "retry-after", "x-cache")
"""The service's headers that the client gets."""
WHOLE_BYTES = 256 * 1024
"""A longer answer is passed on as it comes. A shorter one is had whole first: it can be asked for again, elsewhere."""
LONG_BYTES = 768 * 1024
"""What a longer answer takes up at most, about, on its way from one socket to the other."""
STREAM_BYTES = 64 * 1024
"""The same of a stream of events, which are short."""
_OWN_BYTES = 16_000_000
"""Room for what the gateway asks for itself."""
RETRY_AFTER_SECONDS = 2.0
"""What a client is told to wait for a service that is away: a supervisor restarts it within seconds."""
EVENT_STREAM = "text/event-stream"

log = logs.logger()


@dataclass(frozen=True)
class Call:
    """What a service is asked."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    trail: Trail = field(default_factory=Trail)
    """Of the request that asks."""
    caller: str = ""
    """The name of its key, among which the service is shared fairly."""
    held: Held = field(default_factory=lambda: Buffers(_OWN_BYTES).hold(), compare=False)
    """Counts what is held of the answer."""


class Reply:
    """A service's answer: its head has been read, and its body too if it neither streams nor is long. Closing it gives
    its replica back."""

    def __init__(self, upstream: Upstream, answer: Answer, lease: Lease, deadline: Deadline, held: Held) -> None:
        self.status = answer.status
        self.headers = {name: value for name in RETURNED if (value := answer.header(name)) is not None}
        """Those that the client may get."""
        self.timings = _timings(answer.header("server-timing") or "")
        """What it says of its time, by name."""
        told = answer.header(identity.HEADER)
        self.model = upstream.pool.served.heard(lease.replica, answer.status, told)
        """Which model has answered, if it says so; not for the client."""
        self._upstream = upstream
        self._answer = answer
        self._lease = lease
        self._held = held
        self._parts: list[bytes] = []
        """Of the body, what has come and has not been passed on."""
        self._turn: Turn | None = None
        self.length = answer.header("content-length")
        self.deadline = deadline
        self.is_whole = False
        """All of its body is here."""

    def hold(self, turn: Turn) -> None:
        """Keep the request's turn until this is closed."""
        self._turn = turn

    @property
    def streams(self) -> bool:
        """It is an event stream. One that says that the service failed is no stream: nobody reads events there."""
        return self.status < 300 and self._has_events

    @property
    def _has_events(self) -> bool:
        return self.headers.get("content-type", "").startswith(EVENT_STREAM)

    async def begin(self) -> None:
        """Have a stream's place, or the whole body if it is not long; of a failure no more than that is ever wanted.

        Raises:
            BadUpstream, DeadlineExceeded: the service breaks off, or is silent for too long.
            Unavailable: there is no room for it.
        """
        if self.streams:
            await self._held.more(STREAM_BYTES)
        elif not self._has_events:
            await self._read(WHOLE_BYTES)
            if not self.is_whole:
                await self._held.more(LONG_BYTES - WHOLE_BYTES)

    async def read(self) -> bytes:
        """The whole body of a success; of a failure, what has come.

        Raises:
            BadUpstream, DeadlineExceeded, Unavailable: as `begin`.
        """
        if self.status < 300:
            await self._read(math.inf)
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts = [body]
        return body

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes.

        Raises:
            BadUpstream, DeadlineExceeded: as `begin`.
        """
        while self._parts:
            yield self._parts.pop(0)
        while chunk := await self._chunk():
            yield chunk

    async def _read(self, most_bytes: float) -> None:
        size = 0
        try:
            while size <= most_bytes and (chunk := await self._chunk()):
                size += len(chunk)
                self._parts.append(chunk)
                await self._held.more(len(chunk))
        except BaseException:
            self._parts.clear()  # Whoever keeps the exception keeps this.
            raise

    async def _chunk(self) -> bytes:
        """Empty at the end."""
        if self.is_whole:
            return b""
        with self._blaming():
            if self._answer.is_whole:  # Nothing is waited for.
                chunk = await self._answer.chunk()
            else:
                async with self._lease.patience(self._silence()):
                    chunk = await self._answer.chunk()
        if not chunk or self._answer.is_read:
            self.is_whole = True
            self._lease.ended()
        return chunk

    def close(self) -> None:
        """Let the connection go: back to its pool after a whole answer, else closed, which cancels the work."""
        try:
            self._answer.close()
            self._lease.close()
        finally:
            if self._turn is not None:
                self._turn.end()

    def _silence(self) -> float:
        return min(self._upstream.limits.silence_seconds, self.deadline.left)

    @contextmanager
    def _blaming(self) -> Iterator[None]:
        """What goes wrong while an answer comes in is the replica's fault, and told to the client as ours."""
        try:
            yield
        except (Fault, TimeoutError) as error:
            if self.deadline.left:
                self._lease.failed("silent" if isinstance(error, TimeoutError) else "away")
            _log_failure(error, self._upstream)
            raise late(self._upstream) if isinstance(error, TimeoutError) else broken_off(self._upstream) from None


class _Failed(AttemptFailed):
    """An attempt that failed, and what the client is told if it was the last."""

    def __init__(self, failure: Failure, replica: int | None, outcome: "OnecardError | Reply") -> None:
        retry_after = outcome.headers.get("retry-after", "") if isinstance(outcome, Reply) else ""
        super().__init__(failure, replica, float(retry_after) if retry_after.isdecimal() else None)
        self.outcome = outcome


async def send(call: Call, upstream: Upstream) -> Reply:
    """The service's answer, a stream up to its headers; asked again, elsewhere if possible, while the client can have
    had nothing of it.

    The caller closes it. An answer that says that the service failed is one, too, when no replica gave a better one.

    Raises:
        TooBusy: more requests wait for their turn at the service than may.
        Unavailable, BadUpstream, DeadlineExceeded: the service is away, breaks off, or is silent for too long.
        InvalidRequest: the client's time limit means nothing.
    """
    deadline = _deadline(call, upstream)
    turn = await _turn(call, upstream, deadline)
    try:
        reply = await _tried(call, upstream, deadline)
    except BaseException:
        turn.end()
        raise
    reply.hold(turn)
    return reply


async def look(call: Call, upstream: Upstream) -> Reply:
    """As `send`, out of turn: for the small questions of the gateway's own, on which other requests wait.

    Raises:
        Unavailable, BadUpstream, DeadlineExceeded: as `send`.
    """
    return await _tried(call, upstream, _deadline(call, upstream))


def _deadline(call: Call, upstream: Upstream) -> Deadline:
    return deadlines.of(call.headers, upstream.limits.total_seconds, time.monotonic)


async def _turn(call: Call, upstream: Upstream, deadline: Deadline) -> Turn:
    try:
        return await upstream.turns.take(call.caller, call.trail, deadline.left)
    except asyncio.QueueFull:
        raise busy(upstream) from None
    except TimeoutError:
        raise late(upstream) from None


async def _tried(call: Call, upstream: Upstream, deadline: Deadline) -> Reply:
    """The service's answer, after as many attempts as are allowed and needed."""
    retries = upstream.pool.retries(deadline)
    last: Reply | None = None

    async def attempt() -> Reply:
        nonlocal last
        if last is not None:
            last.close()
        last = None
        try:
            return await _attempt(call, upstream, retries.tried, deadline)
        except _Failed as failed:
            last = failed.outcome if isinstance(failed.outcome, Reply) else None
            raise

    try:
        return await retries.run(attempt)
    except _Failed as failed:
        outcome = failed.outcome
        failed.__traceback__ = None  # tenacity's frames are in it, and keep it.
    except BaseException:
        if last is not None:
            last.close()
        raise
    if isinstance(outcome, Reply):
        return outcome
    outcome.__context__ = None
    try:
        raise outcome.with_traceback(None)
    finally:
        del outcome


async def _attempt(call: Call, upstream: Upstream, tried: Collection[int], deadline: Deadline) -> Reply:
    lease = upstream.pool.lease(tried, call.trail)
    if lease is None:
        raise _Failed("away", None, unavailable(upstream))
    headers = {**call.headers, **upstream.headers, **deadline.headers(), **lease.headers}
    try:
        async with lease.patience(min(upstream.limits.first_byte_seconds, deadline.left)):
            answer = await upstream.connections.ask(call.method, lease.origin, call.path, headers, call.body)
    except BaseException as error:
        failed = _failed_before_answer(error, upstream, lease, deadline)
        lease.close()
        try:
            raise failed from None
        finally:
            del failed  # Else it would keep itself, by its traceback, and what this frame has.
    reply = Reply(upstream, answer, lease, deadline, call.held)
    failure = failure_of(reply.status)
    if failure is None:
        lease.answered()
    else:
        lease.failed(failure)
    await _begin(reply, lease, deadline)
    if failure is not None:
        raise _Failed(failure, lease.replica, reply)
    return reply


async def _begin(reply: Reply, lease: Lease, deadline: Deadline) -> None:
    """Have what the client gets nothing of before: an answer that breaks off until then is a failed attempt."""
    try:
        await reply.begin()
    except BaseException as error:
        reply.close()
        if isinstance(error, BadUpstream):
            raise _Failed("away", lease.replica, error) from None
        if isinstance(error, DeadlineExceeded) and deadline.left:
            raise _Failed("silent", lease.replica, error) from None
        raise


def _failed_before_answer(error: BaseException, upstream: Upstream, lease: Lease, deadline: Deadline) -> BaseException:
    """What an attempt without an answer comes to; `error` itself if the replica is not to blame."""
    if isinstance(error, NoAnswer):
        failure: Failure = "away"
        outcome: OnecardError = unavailable(upstream)
    elif isinstance(error, TimeoutError):
        failure, outcome = "silent", late(upstream)
    elif isinstance(error, Fault):
        failure, outcome = "error", broken_off(upstream)
    else:
        return error
    _log_failure(error, upstream)
    if failure == "silent" and not deadline.left:
        return outcome  # The client's own limit: it says nothing of the replica.
    lease.failed(failure)
    return _Failed(failure, lease.replica, outcome)


def _log_failure(error: BaseException, upstream: Upstream) -> None:
    log.warning("upstream failed", upstream=upstream.name, error=type(error).__name__)


def late(upstream: Upstream) -> DeadlineExceeded:
    """The answer when a service takes too long."""
    return DeadlineExceeded(f"The {upstream.name} service did not answer in time. Ask for less, or try again.")


def busy(upstream: Upstream) -> TooBusy:
    """The answer when too many wait for a service."""
    message = f"Too many requests wait for the {upstream.name} service. Try again in a moment, or send fewer at a time."
    return TooBusy(message, retry_after=RETRY_AFTER_SECONDS)


def broken_off(upstream: Upstream) -> BadUpstream:
    """The answer when a service does not finish its own."""
    return BadUpstream(f"The {upstream.name} service broke off its answer. Try again.", retry_after=RETRY_AFTER_SECONDS)


def unavailable(upstream: Upstream) -> Unavailable:
    """The answer while a service is away."""
    message = f"The {upstream.name} service is down or starting. Try again in a few seconds."
    return Unavailable(message, retry_after=RETRY_AFTER_SECONDS)


def _timings(header: str) -> dict[str, Timing]:
    """A service's `server-timing` by name, its `total` renamed: `total` is the gateway's own."""
    return {"upstream" if name == "total" else name: timing for name, timing in timings.read(header).items()}
