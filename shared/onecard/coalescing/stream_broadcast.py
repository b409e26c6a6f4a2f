"""One stream for all equal requests: late subscribers get the earlier chunks first, then live ones.

Memory per stream: each chunk is stored once, however many subscribers read it. Up to `max_bytes` are kept from the
start, for late subscribers and for the recording. A longer stream is no longer recorded and accepts no new subscribers;
from then on, chunks that all subscribers have read are dropped. The source is paused while even the fastest subscriber
is half of `max_bytes` behind it, and a subscriber that is half of `max_bytes` behind the fastest is cut off. So a
stream holds at most `max_bytes` and two chunks. Many streams with stalled subscribers would still add up: see
`onecard.coalescing.stream_budget`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Any

from onecard import logs
from onecard.coalescing.single_flight import FlightCancelled, TaskSet
from onecard.coalescing.stream_budget import StreamBudget

MAX_STREAM_BYTES = 4_000_000
"""About 16,000 tokens as OpenAI's chunks."""
MAX_TOTAL_BYTES = 64_000_000
"""Limit of all streams together."""
DONE_EVENT = b"data: [DONE]\n\n"
"""The last event of a stream. A subscriber that leaves after it has received everything."""
_CHUNK_OVERHEAD_BYTES = 64
"""Counted for each chunk on top of its bytes: its object header and list slot."""

log = logs.logger()

Source = Callable[[], AsyncIterator[bytes]]
"""Opens the stream. An exception, at any point, ends the stream for all subscribers."""
OnComplete = Callable[[tuple[bytes, ...]], None]
"""Gets all chunks of a stream that ended well and was short enough to be recorded."""


class SlowSubscriber(Exception):
    """This subscriber is too far behind the others. Their stream continues."""


class BroadcastStream:
    """A stream with its chunks and its subscribers."""

    def __init__(
        self,
        source: Source,
        max_bytes: int,
        on_complete: OnComplete | None,
        on_closed: Callable[[], None],
        budget: StreamBudget,
    ):
        """Prepare the stream; `run` reads the source.

        Args:
            source: opens the stream.
            max_bytes: limit of the chunks held.
            on_complete: gets the recording, if there is one; None if nobody wants it.
            on_closed: called when the stream accepts no new subscribers.
            budget: shared by all streams.
        """
        self._budget = budget
        self._source = source
        self._max_bytes = max_bytes
        self._max_lag_bytes = max_bytes // 2
        """How far a subscriber may be behind the fastest one when the stream is no longer recorded."""
        self._on_complete = on_complete
        self._on_closed = on_closed
        self._chunks: list[bytes] = []
        self._trimmed_chunks = 0
        """Chunks dropped because all subscribers had read them."""
        self._total_bytes = 0
        self.buffered_bytes = 0
        """Size of the chunks held now, overhead included."""
        self._recordable = True
        self._ended = False
        self._failure: Exception | None = None
        self._subscribers: set[StreamSubscriber] = set()
        self._changed = asyncio.Event()
        self._space_freed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    @property
    def recording(self) -> tuple[bytes, ...] | None:
        """All chunks of a stream that ended well; None before, after a failure, and for one that was too long."""
        is_complete = self._ended and self._failure is None and self._recordable
        return tuple(self._chunks) if is_complete else None

    def subscribe(self, subscriber: "StreamSubscriber") -> None:
        """Add a subscriber, which reads from the first chunk."""
        subscriber.busy_since = self._budget.clock()
        self._subscribers.add(subscriber)

    async def run(self) -> None:
        """Read the source to its end."""
        failure: Exception | None = FlightCancelled()
        try:
            upstream = self._source()
            try:
                async for chunk in upstream:
                    self._append(chunk)
                    await self._wait_for_space()
            finally:
                await _close(upstream)
            failure = None
        except Exception as error:
            failure = error
        finally:
            self._end(failure)

    def unsubscribe(self, subscriber: "StreamSubscriber") -> None:
        """Remove a subscriber; without the last one, reading the source is cancelled."""
        self._subscribers.discard(subscriber)
        self._space_freed.set()
        if self._subscribers:
            return
        if self._ended:
            self._release()
        elif self.task is not None and not self._done_received():
            self._on_closed()
            self.task.cancel()

    def _done_received(self) -> bool:
        return bool(self._chunks) and self._chunks[-1].endswith(DONE_EVENT)

    async def next_chunk(self, subscriber: "StreamSubscriber") -> bytes:
        """Wait for the next chunk of a subscriber.

        Args:
            subscriber: one of this stream's.

        Returns:
            The chunk.

        Raises:
            StopAsyncIteration: the stream has ended.
            SlowSubscriber: the subscriber has been cut off.
            Exception: the source's, after all chunks that came before it.
        """
        subscriber.busy_since = None
        while True:
            if subscriber not in self._subscribers:
                raise SlowSubscriber
            position = subscriber.chunks_read - self._trimmed_chunks
            if position < len(self._chunks):
                chunk = self._chunks[position]
                subscriber.chunks_read += 1
                subscriber.bytes_read += len(chunk) + _CHUNK_OVERHEAD_BYTES
                subscriber.busy_since = self._budget.clock()
                self._space_freed.set()
                return chunk
            if self._failure is not None:
                # Subscribers share the exception, and each raise would extend its traceback.
                raise self._failure.with_traceback(None)
            if self._ended:
                raise StopAsyncIteration
            await self._changed.wait()

    def _append(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._total_bytes += len(chunk) + _CHUNK_OVERHEAD_BYTES
        self._count_bytes(len(chunk) + _CHUNK_OVERHEAD_BYTES)
        self._budget.relieve(self)
        if self._recordable and self._total_bytes > self._max_bytes:
            self._stop_recording()
        if not self._recordable:
            self._drop_slow_subscribers()
            self._trim()
        self._notify()

    def shrink(self, max_bytes: int) -> None:
        """See `BufferingStream`. No subscriber is cut off by it, only one that then falls further behind."""
        if max_bytes < self._max_bytes:
            self._max_bytes = max_bytes
            slowest = min((subscriber.bytes_read for subscriber in self._subscribers), default=0)
            lag_bytes = self._fastest_bytes(default=0) - slowest
            self._max_lag_bytes = min(self._max_lag_bytes, lag_bytes + max_bytes // 2)
        self._stop_recording()
        self._trim()

    def cut_off_stalled(self, max_bytes: int, stalled_since: float) -> None:
        """See `BufferingStream`. A stream without subscribers left is closed."""
        for subscriber in sorted(self._subscribers, key=lambda subscriber: subscriber.bytes_read):
            if self.buffered_bytes <= max_bytes:
                return
            if subscriber.busy_since is not None and subscriber.busy_since <= stalled_since:
                self.unsubscribe(subscriber)
                self._trim()

    def _stop_recording(self) -> None:
        self._recordable = False
        self._on_closed()

    def _fastest_bytes(self, default: int) -> int:
        return max((subscriber.bytes_read for subscriber in self._subscribers), default=default)

    def _drop_slow_subscribers(self) -> None:
        slowest_allowed = self._fastest_bytes(default=0) - self._max_lag_bytes
        self._subscribers = {one for one in self._subscribers if one.bytes_read >= slowest_allowed}

    def _trim(self) -> None:
        read_by_all = min((subscriber.chunks_read for subscriber in self._subscribers), default=self._trimmed_chunks)
        read = self._chunks[: read_by_all - self._trimmed_chunks]
        del self._chunks[: len(read)]
        self._trimmed_chunks = read_by_all
        self._count_bytes(-sum(len(chunk) + _CHUNK_OVERHEAD_BYTES for chunk in read))

    def _count_bytes(self, more_bytes: int) -> None:
        self.buffered_bytes += more_bytes
        self._budget.count(self, more_bytes)

    def _release(self) -> None:
        """Free the chunks: there are no subscribers left."""
        self._chunks.clear()
        self._count_bytes(-self.buffered_bytes)

    async def _wait_for_space(self) -> None:
        while not self._recordable and self._lead_bytes() > self._max_bytes // 2:
            self._space_freed.clear()
            await self._space_freed.wait()

    def _lead_bytes(self) -> int:
        """How many bytes the source is ahead of the fastest subscriber."""
        return self._total_bytes - self._fastest_bytes(default=self._total_bytes)

    def _end(self, failure: Exception | None) -> None:
        self._failure = failure
        self._ended = True
        recording = self.recording
        if recording is not None and self._on_complete is not None:
            try:
                self._on_complete(recording)
            except Exception:
                log.exception("stream was not stored")
        # Only now: a request in between would find neither the stream nor its recording.
        self._on_closed()
        self._notify()
        if not self._subscribers:
            self._release()

    def _notify(self) -> None:
        previous, self._changed = self._changed, asyncio.Event()
        previous.set()


class StreamSubscriber(AsyncIterator[bytes]):
    """One subscriber's position in a stream."""

    coalesced: bool
    """Whether another request had opened the stream. Final once the first chunk has come."""

    def __init__(
        self, join: Callable[[], tuple[BroadcastStream, bool]], caller_errors: tuple[type[Exception], ...]
    ) -> None:
        """Join a stream.

        Args:
            join: finds or opens the stream; returns it, and whether it was open already.
            caller_errors: failures of the request that opened the stream; before the first chunk they lead to joining
                again.
        """
        self._join = join
        self._caller_errors = caller_errors
        self.chunks_read = 0
        self.bytes_read = 0
        self.busy_since: float | None = None
        """When it took its latest chunk, in seconds of the streams' clock; None while it waits for one."""
        self._subscribe()

    async def __anext__(self) -> bytes:
        while True:
            try:
                return await self._stream.next_chunk(self)
            except self._caller_errors:
                if self.chunks_read or not self.coalesced:
                    raise
            self.unsubscribe()
            self._subscribe()

    def unsubscribe(self) -> None:
        """Leave the stream."""
        self._stream.unsubscribe(self)

    def _subscribe(self) -> None:
        self._stream, self.coalesced = self._join()
        self._stream.subscribe(self)


class StreamBroadcast:
    """Open streams by key."""

    def __init__(
        self,
        max_bytes: int = MAX_STREAM_BYTES,
        max_all_bytes: int = MAX_TOTAL_BYTES,
        caller_errors: tuple[type[Exception], ...] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start without streams.

        Args:
            max_bytes: limit of one stream's chunks.
            max_all_bytes: limit, though not an exact one, of all streams' chunks.
            caller_errors: failures due to the request that opened a stream. They are not shared: the next subscriber
                that has read nothing yet opens it again, and the others join that.
            clock: monotonic seconds.
        """
        self._caller_errors = caller_errors
        self._max_bytes = max_bytes
        self._budget = StreamBudget(max_all_bytes, clock)
        self._streams: dict[Hashable, BroadcastStream] = {}
        self._tasks = TaskSet()

    def __len__(self) -> int:
        return len(self._streams)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._streams

    @asynccontextmanager
    async def subscribe(
        self, key: Hashable, source: Source, on_complete: OnComplete | None = None
    ) -> AsyncIterator[StreamSubscriber]:
        """Read the stream of `key`, and open it if it is not open. Leaving the block leaves the stream.

        Args:
            key: equal for equal requests.
            source: opens the stream.
            on_complete: gets the recording once, however many subscribers there are, and even if the request that
                opened the stream has left. It must not block.

        Yields:
            An iterator over the chunks.
        """

        def join() -> tuple[BroadcastStream, bool]:
            stream = self._streams.get(key)
            return (stream, True) if stream else (self._open(key, source, on_complete), False)

        subscriber = StreamSubscriber(join, self._caller_errors)
        try:
            yield subscriber
        finally:
            subscriber.unsubscribe()

    def _open(self, key: Hashable, source: Source, on_complete: OnComplete | None) -> BroadcastStream:
        def closed() -> None:
            if self._streams.get(key) is stream:
                del self._streams[key]

        stream = BroadcastStream(source, self._max_bytes, on_complete, closed, self._budget)
        self._streams[key] = stream
        stream.task = self._tasks.start(stream.run())
        return stream


async def _close(upstream: AsyncIterator[Any]) -> None:
    """Close a generator; other iterators need no closing."""
    close = getattr(upstream, "aclose", None)
    if close is not None:
        await close()
