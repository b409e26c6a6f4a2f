"""One answer of a service: what is held of it, and what the client is told if it fails."""

import math
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from gateway.deadlines import Deadline
from gateway.guarded import Fault
from gateway.pool import Lease
from gateway.transport import Answer
from gateway.turns import Turn
from gateway.upstreams import Upstream
from onecard import logs
from onecard.errors import BadUpstream, DeadlineExceeded, TooBusy, Unavailable
from onecard.models import identity
from onecard.web import server_timing
from onecard.web.buffer_semaphore import BufferLease
from onecard.web.server_timing import Timing

RETURNED = ("age", "allow", "content-type", "retry-after", "x-cache")
"""The service's headers that the client gets."""
WHOLE_BYTES = 256 * 1024
"""A longer answer is passed on as it comes. A shorter one is had whole first: it can be asked for again, elsewhere."""
LONG_BYTES = 768 * 1024
"""What a longer answer takes up at most, about, on its way from one socket to the other."""
STREAM_BYTES = 64 * 1024
"""The same of a stream of events, which are short."""
RETRY_AFTER_SECONDS = 2.0
"""What a client is told to wait for a service that is away: a supervisor restarts it within seconds."""
EVENT_STREAM = "text/event-stream"

log = logs.logger()


class Reply:
    """A service's answer: its head has been read, and its body too if it neither streams nor is long. Closing it gives
    its replica back."""

    def __init__(self, upstream: Upstream, answer: Answer, lease: Lease, deadline: Deadline, held: BufferLease) -> None:
        self.status = answer.status
        self.headers = {name: value for name in RETURNED if (value := answer.header(name)) is not None}
        """Those that the client may get."""
        self.timings = _timings(answer.header("server-timing") or "")
        """What it says of its time, by name."""
        told = answer.header(identity.MODEL_HEADER)
        self.model = upstream.pool.served.observe(lease.replica, answer.status, told)
        """Which model has answered, if it says so; not for the client."""
        self._upstream = upstream
        self._answer = answer
        self._lease = lease
        self._held = held
        self._parts: list[bytes] = []
        """Of the body, what has come and has not been passed on."""
        self.turn: Turn | None = None
        """The request's, kept until this is closed."""
        self.length = answer.header("content-length")
        self.deadline = deadline
        self.is_whole = False
        """All of its body is here."""

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
            await self._held.acquire(STREAM_BYTES)
        elif not self._has_events:
            await self._read(WHOLE_BYTES)
            if not self.is_whole:
                await self._held.acquire(LONG_BYTES - WHOLE_BYTES)

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
                await self._held.acquire(len(chunk))
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
            if self.turn is not None:
                self.turn.end()

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
            log_failure(error, self._upstream)
            raise late(self._upstream) if isinstance(error, TimeoutError) else broken_off(self._upstream) from None


def log_failure(error: BaseException, upstream: Upstream) -> None:
    """Say what kind of fault it is, and whose."""
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
    return {"upstream" if name == "total" else name: timing for name, timing in server_timing.parse(header).items()}
