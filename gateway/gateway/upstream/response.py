"""One answer of a service: what is held of it, and what the client is told if it fails."""

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
from onecard.web.buffer_semaphore import BufferLease
from onecard.web.server_timing import Timing

RETURNED_HEADERS = ("age", "allow", "content-type", "retry-after", "x-cache")
"""The service's headers that the client gets."""
MAX_READ_AHEAD_BYTES = 256 * 1024
"""A longer answer is passed on as it comes. A shorter one is had whole first: it can be asked for again, elsewhere."""
LONG_RESPONSE_BYTES = 768 * 1024
"""What a longer answer takes up at most, about, on its way from one socket to the other."""
STREAM_BUFFER_BYTES = 64 * 1024
"""The same of a stream of events, which are short."""
RETRY_AFTER_SECONDS = 2.0
"""What a client is told to wait for a service that is away: a supervisor restarts it within seconds."""
EVENT_STREAM = "text/event-stream"

log = logs.logger()


class UpstreamResponse(AsyncIterator[bytes]):
    """A service's answer: its head has been read, and its body too if it neither streams nor is long. Closing it gives
    its replica back."""

    def __init__(
        self,
        upstream: Upstream,
        http_response: HttpResponse,
        lease: EndpointLease,
        deadline: Deadline,
        buffers: BufferLease,
    ) -> None:
        self.status = http_response.status
        self.headers = {name: value for name in RETURNED_HEADERS if (value := http_response.header(name)) is not None}
        """Those that the client may get."""
        self.timings = _timings(http_response.header("server-timing") or "")
        """What it says of its time, by name."""
        told = http_response.header(identity.MODEL_HEADER)
        self.model = upstream.load_balancer.models.observe(lease.endpoint, http_response.status, told)
        """Which model has answered, if it says so; not for the client."""
        self._upstream = upstream
        self._response = http_response
        self._lease = lease
        self._buffers = buffers
        self._chunks: list[bytes] = []
        """Of the body, what has come and has not been passed on."""
        self.permit: Permit | None = None
        """The request's, kept until this is closed."""
        self.length = http_response.header("content-length")
        self.deadline = deadline
        self.is_complete = False
        """All of its body is here."""

    @property
    def is_stream(self) -> bool:
        """It is an event stream. One that says that the service failed is no stream: nobody reads events there."""
        return self.status < 300 and self._is_event_stream

    @property
    def _is_event_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith(EVENT_STREAM)

    async def read_ahead(self) -> None:
        """Have a stream's place, or the whole body if it is not long; of a failure no more than that is ever wanted.

        Raises:
            BadUpstream, DeadlineExceeded: the service breaks off, or is silent for too long.
            Unavailable: there is no room for it.
        """
        if self.is_stream:
            await self._buffers.acquire(STREAM_BUFFER_BYTES)
        elif not self._is_event_stream:
            await self._read_up_to(MAX_READ_AHEAD_BYTES)
            if not self.is_complete:
                await self._buffers.acquire(LONG_RESPONSE_BYTES - MAX_READ_AHEAD_BYTES)

    async def read(self) -> bytes:
        """The whole body of a success; of a failure, what has come.

        Raises:
            BadUpstream, DeadlineExceeded, Unavailable: as `begin`.
        """
        if self.status < 300:
            await self._read_up_to(math.inf)
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks = [body]
        return body

    def __aiter__(self) -> "UpstreamResponse":
        """The body as it comes.

        Raises:
            BadUpstream, DeadlineExceeded: as `begin`.
        """
        return self

    async def __anext__(self) -> bytes:
        chunk = self._chunks.pop(0) if self._chunks else await self._next_chunk()
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def _read_up_to(self, most_bytes: float) -> None:
        size = 0
        try:
            while size <= most_bytes and (chunk := await self._next_chunk()):
                size += len(chunk)
                self._chunks.append(chunk)
                await self._buffers.acquire(len(chunk))
        except BaseException:
            self._chunks.clear()  # Whoever keeps the exception keeps this.
            raise

    async def _next_chunk(self) -> bytes:
        """Empty at the end."""
        if self.is_complete:
            return b""
        try:
            if self._response.is_complete:  # Nothing is waited for.
                chunk = await self._response.chunk()
            else:
                async with self._lease.timeout(min(self._upstream.timeouts.idle_seconds, self.deadline.remaining)):
                    chunk = await self._response.chunk()
        except (UpstreamError, TimeoutError) as error:
            # What goes wrong while an answer comes in is the replica's fault, and told to the client as ours.
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
        """Let the connection go: back to its pool after a whole answer, else closed, which cancels the work."""
        try:
            self._response.close()
            self._lease.close()
        finally:
            if self.permit is not None:
                self.permit.release()


def log_failure(error: BaseException, upstream: Upstream) -> None:
    """Say what kind of fault it is, and whose."""
    log.warning("upstream failed", upstream=upstream.name, error=type(error).__name__)


def deadline_exceeded(upstream: Upstream) -> DeadlineExceeded:
    """The answer when a service takes too long."""
    return DeadlineExceeded(f"The {upstream.name} service did not answer in time. Ask for less, or try again.")


def queue_full(upstream: Upstream) -> TooBusy:
    """The answer when too many wait for a service."""
    message = f"Too many requests wait for the {upstream.name} service. Try again in a moment, or send fewer at a time."
    return TooBusy(message, retry_after=RETRY_AFTER_SECONDS)


def response_broken_off(upstream: Upstream) -> BadUpstream:
    """The answer when a service does not finish its own."""
    return BadUpstream(f"The {upstream.name} service broke off its answer. Try again.", retry_after=RETRY_AFTER_SECONDS)


def unavailable(upstream: Upstream) -> Unavailable:
    """The answer while a service is away."""
    message = f"The {upstream.name} service is down or starting. Try again in a few seconds."
    return Unavailable(message, retry_after=RETRY_AFTER_SECONDS)


def _timings(header: str) -> dict[str, Timing]:
    """A service's `server-timing` by name, its `total` renamed: `total` is the gateway's own."""
    return {"upstream" if name == "total" else name: timing for name, timing in server_timing.parse(header).items()}
