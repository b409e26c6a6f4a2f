"""One response of a service: buffering, time limits, and the errors for clients if it fails."""

import math
from collections.abc import AsyncIterator

from gateway.upstream.concurrency_limiter import Permit
from gateway.upstream.connection import UpstreamError
from gateway.upstream.deadline import Deadline
from gateway.upstream.http_client import HttpResponse
from gateway.upstream.load_balancer import EndpointLease
from gateway.upstream.services import Upstream
from onecard import logs
from onecard.errors import BadUpstream, DeadlineExceeded, TooBusy, Unavailable
from onecard.models import identity
from onecard.web import server_timing
from onecard.web.buffer_semaphore import BufferLease, GrowingBuffer
from onecard.web.server_timing import Timing

RETURNED_HEADERS = ("age", "allow", "content-type", "retry-after", "x-cache")
"""Headers of a service's response that the client gets."""
MAX_READ_AHEAD_BYTES = 256 * 1024
"""A shorter response is read completely first, so that it can be retried; a longer one is passed on as it is
received."""
LONG_RESPONSE_BYTES = 768 * 1024
"""Buffer space, sockets included, that a longer response takes up at most, approximately."""
STREAM_BUFFER_BYTES = 64 * 1024
"""The same for an event stream, whose events are short."""
RETRY_AFTER_SECONDS = 2.0
"""Sent to clients while a service is down: its supervisor restarts it within seconds."""
EVENT_STREAM = "text/event-stream"

log = logs.logger()


class UpstreamResponse(AsyncIterator[bytes]):
    """A service's response: the head, and the body too unless it is a stream or long.

    As an iterator it yields the chunks of the body, and raises what `read` raises.
    """

    def __init__(
        self,
        upstream: Upstream,
        http_response: HttpResponse,
        lease: EndpointLease,
        deadline: Deadline,
        buffers: BufferLease,
    ) -> None:
        """Take the head.

        Args:
            upstream: the service.
            http_response: closed with this one.
            lease: of the replica; closed with this response.
            deadline: of the request.
            buffers: space for the body; the request closes it.
        """
        self.status = http_response.status
        self.headers = {name: value for name in RETURNED_HEADERS if (value := http_response.header(name)) is not None}
        """Those that the client gets."""
        self.timings = _timings(http_response.header("server-timing") or "")
        """The service's `server-timing`, by name."""
        model_header = http_response.header(identity.MODEL_HEADER)
        self.model = upstream.load_balancer.models.observe(lease.endpoint, http_response.status, model_header)
        """The model that it names, if any; not for the client."""
        self._upstream = upstream
        self._response = http_response
        self._lease = lease
        self._buffers = buffers
        self._body_buffer = GrowingBuffer(buffers, "answer", "long answer")
        self._chunks: list[bytes] = []
        """What has been received of the body and not passed on."""
        self.permit: Permit | None = None
        """The request's slot, released with this response."""
        self.length = http_response.header("content-length")
        """Its `content-length`; None if there is none."""
        self.deadline = deadline
        self.is_complete = False
        """Whether the whole body has been received."""

    @property
    def is_stream(self) -> bool:
        """Whether it is an event stream. One with an error status is not: clients read no events there."""
        return self.status < 300 and self._is_event_stream

    @property
    def _is_event_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith(EVENT_STREAM)

    async def read_ahead(self) -> None:
        """Reserve space for a stream, or read a body of up to `MAX_READ_AHEAD_BYTES`.

        The body of an event stream with an error status is not read.

        Raises:
            BadUpstream: the service broke off.
            DeadlineExceeded: the service was silent for too long.
            Unavailable: there is no buffer space.
        """
        if self.is_stream:
            await self._buffers.acquire(STREAM_BUFFER_BYTES, "long answer")
        elif not self._is_event_stream:
            await self._read_up_to(MAX_READ_AHEAD_BYTES)
            if not self.is_complete:
                await self._buffers.acquire(LONG_RESPONSE_BYTES - MAX_READ_AHEAD_BYTES, "long answer")

    async def read(self) -> bytes:
        """Read the whole body of a successful response; of a failed one, only what `read_ahead` has read.

        Returns:
            The body.

        Raises:
            BadUpstream: as `read_ahead`.
            DeadlineExceeded: as `read_ahead`.
            Unavailable: as `read_ahead`.
        """
        if self.status < 300:
            await self._read_up_to(math.inf)
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks = [body]
        return body

    def __aiter__(self) -> "UpstreamResponse":
        """The chunks of the body as they are received."""
        return self

    async def __anext__(self) -> bytes:
        chunk = self._chunks.pop(0) if self._chunks else await self._next_chunk()
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def _read_up_to(self, max_bytes: float) -> None:
        size = 0
        try:
            while size <= max_bytes and (chunk := await self._next_chunk()):
                size += len(chunk)
                self._chunks.append(chunk)
                await self._body_buffer.grow(len(chunk))
        except BaseException:
            self._chunks.clear()  # The exception's traceback would keep them alive.
            raise

    async def _next_chunk(self) -> bytes:
        """The next chunk; empty at the end."""
        if self.is_complete:
            return b""
        try:
            if self._response.is_complete:  # No wait, so no timeout is needed.
                chunk = await self._response.chunk()
            else:
                async with self._lease.timeout(min(self._upstream.timeouts.idle_seconds, self.deadline.remaining)):
                    chunk = await self._response.chunk()
        except (UpstreamError, TimeoutError) as error:
            # A failure in the middle of a response is the replica's. The client gets a gateway error.
            if self.deadline.remaining:
                self._lease.failed("silent" if isinstance(error, TimeoutError) else "away")
            log_failure(error, self._upstream)
            raise (
                deadline_exceeded(self._upstream)
                if isinstance(error, TimeoutError)
                else response_broken_off(self._upstream)
            ) from None
        if not chunk or self._response.is_exhausted:
            self.is_complete = True
            self._lease.completed()
        return chunk

    def close(self) -> None:
        """Release connection, replica and slot.

        The connection returns to its pool after a complete response. Otherwise it is closed, which cancels the
        service's work.
        """
        try:
            self._response.close()
            self._lease.close()
        finally:
            if self.permit is not None:
                self.permit.release()


def log_failure(error: BaseException, upstream: Upstream) -> None:
    """Log the kind of an error, without its message, which may hold addresses.

    Args:
        error: what happened.
        upstream: whose failure it is.
    """
    log.warning("upstream failed", upstream=upstream.name, error=type(error).__name__)


def deadline_exceeded(upstream: Upstream) -> DeadlineExceeded:
    """The error for a service that takes too long."""
    return DeadlineExceeded(f"The {upstream.name} service did not answer in time. Ask for less, or try again.")


def queue_full(upstream: Upstream, caller: str) -> TooBusy:
    """The error for a service whose queue is full; its `Retry-After` depends on the caller's other requests."""
    message = f"Too many requests wait for the {upstream.name} service. Try again in a moment, or send fewer at a time."
    return TooBusy(message, retry_after=upstream.limiter.retry_after_seconds(caller))


def response_broken_off(upstream: Upstream) -> BadUpstream:
    """The error for a service that did not finish its response."""
    return BadUpstream(f"The {upstream.name} service broke off its answer. Try again.", retry_after=RETRY_AFTER_SECONDS)


def unavailable(upstream: Upstream) -> Unavailable:
    """The error for a service that cannot be reached."""
    message = f"The {upstream.name} service is down or starting. Try again in a few seconds."
    return Unavailable(message, retry_after=RETRY_AFTER_SECONDS)


def _timings(header: str) -> dict[str, Timing]:
    """Parse a service's `server-timing`. Its `total` becomes `upstream`: the gateway sends a `total` of its own."""
    return {"upstream" if name == "total" else name: timing for name, timing in server_timing.parse(header).items()}
