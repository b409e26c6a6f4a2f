"""One request to one service: queue, retries and attempts. It works on bytes, without a web framework."""

import asyncio
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from typing_extensions import override

from gateway.telemetry.outcomes import Failure
from gateway.telemetry.trace import RequestTrace
from gateway.upstream import deadline
from gateway.upstream.concurrency_limiter import Permit
from gateway.upstream.connection import NoResponse, UpstreamError
from gateway.upstream.deadline import Deadline
from gateway.upstream.load_balancer import EndpointLease
from gateway.upstream.response import (
    UpstreamResponse,
    deadline_exceeded,
    log_failure,
    queue_full,
    response_broken_off,
    unavailable,
)
from gateway.upstream.retry_policy import AttemptFailed, failure_of
from gateway.upstream.services import Upstream
from onecard.errors import BadUpstream, DeadlineExceeded, OnecardError
from onecard.web.buffer_semaphore import BufferLease


@dataclass(frozen=True)
class UpstreamRequest:
    """A request as a service gets it."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    buffers: BufferLease = field(compare=False)
    """Space for the response. Whoever makes the request closes it."""
    trace: RequestTrace = field(default_factory=RequestTrace)
    """Of the client's request."""
    caller: str = ""
    """Name of the client's key, for the fair queue."""


class _UpstreamAttemptFailed(AttemptFailed):
    """A failed attempt, with what the client gets if it was the last one."""

    def __init__(self, failure: Failure, replica: int | None, outcome: "OnecardError | UpstreamResponse") -> None:
        retry_after = outcome.headers.get("retry-after", "") if isinstance(outcome, UpstreamResponse) else ""
        super().__init__(failure, replica, float(retry_after) if retry_after.isdecimal() else None)
        self.outcome = outcome

    @override
    def close(self) -> None:
        if isinstance(self.outcome, UpstreamResponse):
            self.outcome.close()


async def send(request: UpstreamRequest, upstream: Upstream, deadline: Deadline | None = None) -> UpstreamResponse:
    """Send a request to a service: wait for a slot, then retry failed attempts, at another replica if possible.

    An attempt is retried only while the client has received nothing of its response. If no replica gives a better
    response, one that reports a failure (5xx) is returned.

    Args:
        request: what to send.
        upstream: the service.
        deadline: None: the request's own, from now on.

    Returns:
        The response, a stream up to its head. The caller closes it, which frees the slot.

    Raises:
        TooBusy: the service's queue is full.
        Unavailable: no replica can be reached, or there is no buffer space for the response.
        BadUpstream: the service broke off its response.
        DeadlineExceeded: the time is over, or the service was silent for too long.
        InvalidRequest: the client's time limit is not a number of milliseconds.
    """
    deadline = deadline or deadline_of(request, upstream)
    permit = await _permit(request, upstream, deadline)
    try:
        response = await _send_with_retries(request, upstream, deadline)
    except BaseException:
        permit.release()
        raise
    response.permit = permit
    return response


async def send_unqueued(request: UpstreamRequest, upstream: Upstream) -> UpstreamResponse:
    """Send a request without a slot: for the gateway's own small requests, which client requests wait for.

    Args:
        request: what to send.
        upstream: the service.

    Returns:
        The response. The caller closes it.

    Raises:
        Unavailable: as `send`.
        BadUpstream: as `send`.
        DeadlineExceeded: as `send`.
    """
    return await _send_with_retries(request, upstream, deadline_of(request, upstream))


def deadline_of(request: UpstreamRequest, upstream: Upstream) -> Deadline:
    """The deadline of a request that begins now.

    Args:
        request: the client may limit its time in a header.
        upstream: sets the longest time.

    Returns:
        The deadline.

    Raises:
        InvalidRequest: the client's time limit is not a number of milliseconds.
    """
    return deadline.deadline_of(request.headers, upstream.timeouts.total_seconds, time.monotonic)


async def _permit(request: UpstreamRequest, upstream: Upstream, deadline: Deadline) -> Permit:
    try:
        return await upstream.limiter.acquire(request.caller, request.trace, deadline.remaining)
    except asyncio.QueueFull:
        raise queue_full(upstream, request.caller) from None
    except TimeoutError:
        raise deadline_exceeded(upstream) from None


async def _send_with_retries(request: UpstreamRequest, upstream: Upstream, deadline: Deadline) -> UpstreamResponse:
    """Run attempts until one succeeds or no further one is allowed."""
    retries = upstream.load_balancer.retries(deadline)
    try:
        return await retries.run(lambda: _attempt(request, upstream, retries.tried, deadline))
    except _UpstreamAttemptFailed as failed:
        outcome = failed.outcome
    if isinstance(outcome, UpstreamResponse):
        return outcome
    outcome.__context__ = None
    try:
        raise outcome.with_traceback(None)
    finally:
        del outcome


async def _attempt(
    request: UpstreamRequest, upstream: Upstream, tried: Collection[int], deadline: Deadline
) -> UpstreamResponse:
    lease = upstream.load_balancer.lease(tried, request.trace)
    if lease is None:
        raise _UpstreamAttemptFailed("away", None, unavailable(upstream))
    headers = {**request.headers, **upstream.headers, **deadline.headers(), **lease.headers}
    try:
        async with lease.timeout(min(upstream.timeouts.first_byte_seconds, deadline.remaining)):
            http_response = await upstream.client.request(
                request.method, lease.origin, request.path, headers, request.body
            )
    except BaseException as error:
        failed = _failure_before_response(error, upstream, lease, deadline)
        lease.close()
        try:
            raise failed from None
        finally:
            del failed  # Its traceback refers to this frame: the cycle would keep the request's body alive.
    response = UpstreamResponse(upstream, http_response, lease, deadline, request.buffers)
    failure = failure_of(response.status)
    if failure is None:
        lease.responded()
    else:
        lease.failed(failure)
    await _read_ahead(response, lease, deadline)
    if failure is not None:
        raise _UpstreamAttemptFailed(failure, lease.endpoint, response)
    return response


async def _read_ahead(response: UpstreamResponse, lease: EndpointLease, deadline: Deadline) -> None:
    """Read what is buffered before the client gets anything: a response that breaks off here is a failed attempt."""
    try:
        await response.read_ahead()
    except BaseException as error:
        response.close()
        if isinstance(error, BadUpstream):
            raise _UpstreamAttemptFailed("away", lease.endpoint, error) from None
        if isinstance(error, DeadlineExceeded) and deadline.remaining:
            raise _UpstreamAttemptFailed("silent", lease.endpoint, error) from None
        raise


def _failure_before_response(
    error: BaseException, upstream: Upstream, lease: EndpointLease, deadline: Deadline
) -> BaseException:
    """The outcome of an attempt without a response; `error` itself if the replica is not to blame."""
    if isinstance(error, NoResponse):
        failure: Failure = "away"
        outcome: OnecardError = unavailable(upstream)
    elif isinstance(error, TimeoutError):
        failure, outcome = "silent", deadline_exceeded(upstream)
    elif isinstance(error, UpstreamError):
        failure, outcome = "error", response_broken_off(upstream)
    else:
        return error
    log_failure(error, upstream)
    if failure == "silent" and not deadline.remaining:
        return outcome  # The client's time limit is over, which is no fault of the replica.
    lease.failed(failure)
    return _UpstreamAttemptFailed(failure, lease.endpoint, outcome)
