"""One answer of the LLM that streams: read once, for all who joined it."""

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
    """The service gave one whole answer, most often an error."""

    def __init__(self, answer: CompleteResponse) -> None:
        super().__init__()
        self.response = answer


def recorded_stream(recording: tuple[bytes, ...]) -> CachedResponse | None:
    """A stream that is complete, to be kept."""
    content_type, *chunks = recording
    body = b"".join(chunks)
    return CachedResponse(content_type.decode("latin-1"), body) if completeness.is_complete_stream(body) else None


class SharedStream(StreamedResponse):
    """What a client gets of a stream that others may read too; it leaves the stream when the client does."""

    def __init__(
        self,
        reader: StreamSubscriber,
        headers: Mapping[str, str],
        deadline: Deadline,
        closing: AsyncExitStack,
        upstream: Upstream,
    ) -> None:
        super().__init__(reader, 200, headers, deadline, closing)
        self._upstream = upstream

    @override
    async def send_chunks(self, send: Send) -> None:
        # The service knows nothing of this client's time limit: others may wait longer.
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
