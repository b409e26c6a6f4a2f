"""One request to one service: what is asked, and what comes back. Bytes, no HTTP framework of ours."""

import asyncio
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from gateway import deadlines
from gateway.deadlines import Deadline
from gateway.guarded import Fault, NoAnswer
from gateway.pool import Lease
from gateway.replicas import Failure
from gateway.reply import Reply, broken_off, busy, late, log_failure, unavailable
from gateway.retries import AttemptFailed, failure_of
from gateway.trail import Trail
from gateway.turns import Turn
from gateway.upstreams import Upstream
from onecard.errors import BadUpstream, DeadlineExceeded, OnecardError
from onecard.web.buffer_semaphore import BufferLease, BufferSemaphore

_OWN_BYTES = 16_000_000
"""Room for what the gateway asks for itself."""


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
    held: BufferLease = field(default_factory=lambda: BufferSemaphore(_OWN_BYTES).lease(), compare=False)
    """Counts what is held of the answer."""


class _Failed(AttemptFailed):
    """An attempt that failed, and what the client is told if it was the last."""

    def __init__(self, failure: Failure, replica: int | None, outcome: "OnecardError | Reply") -> None:
        retry_after = outcome.headers.get("retry-after", "") if isinstance(outcome, Reply) else ""
        super().__init__(failure, replica, float(retry_after) if retry_after.isdecimal() else None)
        self.outcome = outcome


async def send(call: Call, upstream: Upstream, deadline: Deadline | None = None) -> Reply:
    """The service's answer, a stream up to its headers; asked again, elsewhere if possible, while the client can have
    had nothing of it. Without a deadline, it has the call's own.

    The caller closes it. An answer that says that the service failed is one, too, when no replica gave a better one.

    Raises:
        TooBusy: more requests wait for their turn at the service than may.
        Unavailable, BadUpstream, DeadlineExceeded: the service is away, breaks off, or is silent for too long.
        InvalidRequest: the client's time limit means nothing.
    """
    deadline = deadline or deadline_of(call, upstream)
    turn = await _turn(call, upstream, deadline)
    try:
        reply = await _tried(call, upstream, deadline)
    except BaseException:
        turn.end()
        raise
    reply.turn = turn
    return reply


async def look(call: Call, upstream: Upstream) -> Reply:
    """As `send`, out of turn: for the small questions of the gateway's own, on which other requests wait.

    Raises:
        Unavailable, BadUpstream, DeadlineExceeded: as `send`.
    """
    return await _tried(call, upstream, deadline_of(call, upstream))


def deadline_of(call: Call, upstream: Upstream) -> Deadline:
    """The time limit of a request that begins now.

    Raises:
        InvalidRequest: the client's own means nothing.
    """
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
    log_failure(error, upstream)
    if failure == "silent" and not deadline.left:
        return outcome  # The client's own limit: it says nothing of the replica.
    lease.failed(failure)
    return _Failed(failure, lease.replica, outcome)
