"""One answer of the LLM that streams: read once, for all who joined it."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack

from starlette.types import Receive, Scope, Send
from typing_extensions import override

from gateway.answers import complete
from gateway.answers.kept import Kept
from gateway.deadlines import Deadline
from gateway.relay import Streamed, Whole, error_event
from gateway.reply import Reply
from onecard.coalescing.single_flight import FlightCancelled
from onecard.coalescing.stream_broadcast import SlowSubscriber
from onecard.errors import BadUpstream, SlowReader


class NotStreamed(Exception):
    """The service gave one whole answer, most often an error."""

    def __init__(self, answer: Whole) -> None:
        super().__init__()
        self.answer = answer


async def source(reply: Reply, whole: Callable[[Reply, bytes], Whole]) -> AsyncGenerator[bytes]:
    """The answer's content type, then its chunks. Closes `reply`.

    Raises:
        NotStreamed: with what `whole` makes of the answer.
        BadUpstream, DeadlineExceeded: the service broke off, or fell silent.
    """
    try:
        if reply.status != 200 or not reply.streams:
            raise NotStreamed(whole(reply, await reply.read()))
        yield reply.headers["content-type"].encode("latin-1", "replace")
        async for chunk in reply.chunks():
            yield chunk
    finally:
        reply.close()


def recorded(recording: tuple[bytes, ...]) -> Kept | None:
    """A stream that is complete, to be kept."""
    content_type, *chunks = recording
    body = b"".join(chunks)
    return Kept(content_type.decode("latin-1"), body) if complete.stream(body) else None


class SharedStream(Streamed):
    """What a client gets of a stream that others may read too; it leaves the stream when the client does."""

    def __init__(
        self, chunks: AsyncIterator[bytes], closing: AsyncExitStack, content_type: str, x_cache: str, deadline: Deadline
    ) -> None:
        super().__init__(_events(chunks), 200, {"content-type": content_type, "x-cache": x_cache}, deadline)
        self._closing = closing

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._closing:
            await super().__call__(scope, receive, send)


async def _events(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        async for chunk in chunks:
            yield chunk
    except SlowSubscriber:
        yield error_event(SlowReader("The stream was read too slowly and has gone on. Read faster, or ask again."))
    except FlightCancelled:
        yield error_event(BadUpstream("The answer was broken off. Try again."))
