"""One request to one service: what is asked, and what comes back. Bytes, no HTTP framework of ours."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import aiohttp
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from gateway.upstreams import Upstream
from onecard import logs
from onecard.errors import BadUpstream, DeadlineExceeded, Unavailable

RETURNED = ("allow", "content-type", "retry-after", "x-cache")
"""The service's headers that the client gets."""
RETRY_AFTER_SECONDS = 2.0
"""What a client is told to wait for a service that is away: a supervisor restarts it within seconds."""
EVENT_STREAM = "text/event-stream"
NOTHING_ANSWERED = (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError, aiohttp.ConnectionTimeoutError)
"""No connection, or one that ended before the first byte of an answer: most often a pooled connection to a service
that has restarted since. Repeating is safe: nothing here has side effects."""

log = logs.logger()


@dataclass(frozen=True)
class Call:
    """What a service is asked."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Reply:
    """A service's answer: its head has been read, its body has not."""

    def __init__(self, upstream: Upstream, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self.headers = {name: response.headers[name] for name in RETURNED if name in response.headers}
        """Those that the client may get."""
        self.timings = upstream_timings(response.headers.get("server-timing", ""))
        """Milliseconds by name."""
        self._upstream = upstream
        self._response = response

    @property
    def streams(self) -> bool:
        """It is an event stream."""
        return self.headers.get("content-type", "").startswith(EVENT_STREAM)

    async def read(self) -> bytes:
        """The whole body.

        Raises:
            BadUpstream, DeadlineExceeded: the service breaks off, or is silent for too long.
        """
        try:
            return await self._response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _translate(error, self._upstream, begun=True) from None

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes.

        Raises:
            BadUpstream, DeadlineExceeded: as `read`.
        """
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _translate(error, self._upstream, begun=True) from None

    def close(self) -> None:
        """Let the connection go: back to its pool after a whole answer, else closed, which cancels the work."""
        self._response.release()


async def send(call: Call, upstream: Upstream) -> Reply:
    """The service's answer up to its headers; asked again while nothing has been answered. The caller closes it.

    Raises:
        Unavailable, BadUpstream, DeadlineExceeded: the service is away, breaks off, or is silent for too long.
    """
    try:
        try:
            response = await _attempt(call, upstream)
        except NOTHING_ANSWERED:
            response = await _again(call, upstream)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise _translate(error, upstream, begun=False) from None
    return Reply(upstream, response)


async def _attempt(call: Call, upstream: Upstream) -> aiohttp.ClientResponse:
    headers = {**call.headers, **upstream.headers}
    url = upstream.url(call.path)
    return await upstream.http.request(call.method, url, headers=headers, data=call.body, allow_redirects=False)


async def _again(call: Call, upstream: Upstream) -> aiohttp.ClientResponse:
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(NOTHING_ANSWERED),
        stop=stop_after_attempt(2),
        wait=wait_random_exponential(multiplier=0.05, max=0.3),
        reraise=True,
    )
    return await retrying(_attempt, call, upstream)


def _translate(error: Exception, upstream: Upstream, *, begun: bool) -> BadUpstream | DeadlineExceeded | Unavailable:
    """What the client is told: which service, and what to do; no address. `begun`: its answer had begun."""
    log.warning("upstream failed", upstream=upstream.name, error=type(error).__name__)
    if isinstance(error, NOTHING_ANSWERED) and not begun:
        return unavailable(upstream)
    if isinstance(error, TimeoutError):
        return DeadlineExceeded(f"The {upstream.name} service did not answer in time. Ask for less, or try again.")
    return BadUpstream(f"The {upstream.name} service broke off its answer. Try again.", retry_after=RETRY_AFTER_SECONDS)


def unavailable(upstream: Upstream) -> Unavailable:
    """The answer while a service is away."""
    message = f"The {upstream.name} service is down or starting. Try again in a few seconds."
    return Unavailable(message, retry_after=RETRY_AFTER_SECONDS)


def upstream_timings(header: str) -> dict[str, float]:
    """A service's `server-timing` as milliseconds by name, its `total` renamed: `total` is the gateway's own."""
    timings: dict[str, float] = {}
    for entry in header.split(","):
        name, _, duration = entry.strip().partition(";dur=")
        try:
            timings["upstream" if name == "total" else name] = float(duration)
        except ValueError:
            continue
    return timings
