"""An LLM stream that several clients read."""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack

from starlette.types import Send
from typing_extensions import override

from gateway.answers import completeness
from gateway.answers.cached_response import CachedResponse
from gateway.relay import CompleteResponse, StreamedResponse
from gateway.upstream.deadline import Deadline
from gateway.upstream.response import deadline_exceeded
from gateway.upstream.services import Upstream
from onecard.coalescing.single_flight import FlightCancelled
from onecard.coalescing.stream_broadcast import SlowSubscriber, StreamSubscriber
from onecard.errors import BadUpstream, OnecardError, SlowReader


class NotStreamed(Exception):
    """The service returned a complete response instead of a stream, usually an error."""

    def __init__(self, response: CompleteResponse) -> None:
        """Hold the response.

        Args:
            response: for all clients that wait for the stream.
        """
        super().__init__()
        self.response = response


def recorded_stream(recording: tuple[bytes, ...]) -> CachedResponse | None:
    """Convert a recorded stream for the cache.

    Args:
        recording: its content type, then the chunks of its body.

    Returns:
        The response; None if the stream is incomplete.
    """
    content_type, *chunks = recording
    body = b"".join(chunks)
    return CachedResponse(content_type.decode("latin-1"), body) if completeness.is_complete_stream(body) else None


class SharedStream(StreamedResponse):
    """One client's view of a stream that others may read too. It leaves the stream when the client disconnects."""

    def __init__(
        self,
        reader: StreamSubscriber,
        headers: Mapping[str, str],
        deadline: Deadline,
        closing: AsyncExitStack,
        upstream: Upstream,
    ) -> None:
        """Prepare the response.

        Args:
            reader: this client's subscription.
            headers: of the response.
            deadline: of this client's request.
            closing: ends the subscription.
            upstream: the service, for errors.
        """
        super().__init__(reader, 200, headers, deadline, closing)
        self._upstream = upstream

    @override
    async def send_chunks(self, send: Send) -> None:
        # The shared computation has no time limit of this client: others may wait longer.
        async with asyncio.timeout(self._deadline.remaining):
            await super().send_chunks(send)

    @override
    def failure_of(self, error: Exception) -> OnecardError | None:
        if isinstance(error, TimeoutError):
            return deadline_exceeded(self._upstream)
        if isinstance(error, SlowSubscriber):
            return SlowReader("The stream was read too slowly and has gone on. Read faster, or ask again.")
        if isinstance(error, FlightCancelled):
            return BadUpstream("The answer was broken off. Try again.")
        return super().failure_of(error)
