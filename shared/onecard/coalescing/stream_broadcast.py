"""One stream for all who ask for it: late joiners get the chunks so far, then live ones.

Memory, for each stream: the chunks are kept once, whoever reads them. Up to `max_bytes` of them are kept from the
beginning, for late joiners and for the recording. A longer stream is no longer recorded and takes no more joiners;
from then on, what everybody has read goes. The source is held back when even the fastest reader is half of `max_bytes`
behind it, and a reader that is half of `max_bytes` behind the fastest is cut off, so that at most `max_bytes` and two
chunks are kept. Many streams whose readers stall would still be many times `max_bytes`: see `MAX_TOTAL_BYTES`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from onecard import logs
from onecard.coalescing.single_flight import FlightCancelled, TaskSet

MAX_STREAM_BYTES = 4_000_000
"""About 16,000 tokens as OpenAI's chunks."""
MAX_TOTAL_BYTES = 64_000_000
"""Of all streams together. Beyond it none is recorded further, and each keeps `REDUCED_STREAM_BYTES` at most: then the
sources are held back as if each reader had its stream for itself."""
REDUCED_STREAM_BYTES = 128_000
DONE_EVENT = b"data: [DONE]\n\n"
"""After it nothing comes but the end. Who leaves on reading it has had everything."""
_CHUNK_OVERHEAD_BYTES = 64
"""Counted for each chunk on top of its bytes: its header and its place in a list."""

log = logs.logger()

Source = Callable[[], AsyncIterator[bytes]]
"""Opens the stream. An exception, at any point, is the stream's end for everybody."""
OnComplete = Callable[[tuple[bytes, ...]], None]


class SlowSubscriber(Exception):
    """This reader is too far behind the others. Their stream goes on."""


@dataclass
class BufferBudget:
    """What all streams keep together."""

    max_bytes: int
    used_bytes: int = 0

    @property
    def exceeded(self) -> bool:
        """There is more than there should be."""
        return self.used_bytes > self.max_bytes


class BroadcastStream:
    """A stream, its chunks and its readers."""

    def __init__(
        self,
        source: Source,
        max_bytes: int,
        on_complete: OnComplete | None,
        on_closed: Callable[[], None],
        room: BufferBudget,
    ):
        """Call `on_complete` with all chunks if the source ends well and was short enough to be recorded; `on_closed`
        when nobody may join any more.
        """
        self._budget = room
        self._source = source
        self._max_bytes = max_bytes
        self._on_complete = on_complete
        self._on_closed = on_closed
        self._chunks: list[bytes] = []
        self._trimmed_chunks = 0
        """Chunks that everybody has read and that are gone."""
        self._total_bytes = 0
        self.buffered_bytes = 0
        """Size of the chunks that are kept now."""
        self._recordable = True
        self._ended = False
        self._failure: Exception | None = None
        self._subscribers: set[StreamSubscriber] = set()
        self._changed = asyncio.Event()
        self._space_freed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    @property
    def recording(self) -> tuple[bytes, ...] | None:
        """All chunks, once the source has ended well; None before, after a failure, and for a stream too long."""
        whole = self._ended and self._failure is None and self._recordable
        return tuple(self._chunks) if whole else None

    def subscribe(self, reader: "StreamSubscriber") -> None:
        """One more reader, from the first chunk on."""
        self._subscribers.add(reader)

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

    def unsubscribe(self, reader: "StreamSubscriber") -> None:
        """One reader less; the last one takes the source along."""
        self._subscribers.discard(reader)
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

    async def next_chunk(self, reader: "StreamSubscriber") -> bytes:
        """The chunk that `reader` has not had yet, waiting for it if need be.

        Raises:
            StopAsyncIteration: there is none.
            TooSlow: the reader has been cut off.
            Exception: the source's, after the chunks that came before it.
        """
        while True:
            if reader not in self._subscribers:
                raise SlowSubscriber
            at = reader.chunks_read - self._trimmed_chunks
            if at < len(self._chunks):
                chunk = self._chunks[at]
                reader.chunks_read += 1
                reader.bytes_read += len(chunk) + _CHUNK_OVERHEAD_BYTES
                self._space_freed.set()
                return chunk
            if self._failure is not None:
                raise self._failure.with_traceback(None)  # Each raise would add to a traceback that all share.
            if self._ended:
                raise StopAsyncIteration
            await self._changed.wait()

    def _append(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._total_bytes += len(chunk) + _CHUNK_OVERHEAD_BYTES
        self._count_bytes(len(chunk) + _CHUNK_OVERHEAD_BYTES)
        if self._budget.exceeded:
            self._max_bytes = min(self._max_bytes, REDUCED_STREAM_BYTES)
        if self._recordable and (self._budget.exceeded or self._total_bytes > self._max_bytes):
            self._recordable = False
            self._on_closed()
        if not self._recordable:
            self._drop_slow_subscribers()
            self._trim()
        self._notify()

    def _drop_slow_subscribers(self) -> None:
        fastest = max((reader.bytes_read for reader in self._subscribers), default=0)
        behind = {reader for reader in self._subscribers if fastest - reader.bytes_read > self._max_bytes // 2}
        self._subscribers -= behind

    def _trim(self) -> None:
        read_by_all = min((reader.chunks_read for reader in self._subscribers), default=self._trimmed_chunks)
        read = self._chunks[: read_by_all - self._trimmed_chunks]
        del self._chunks[: len(read)]
        self._trimmed_chunks = read_by_all
        self._count_bytes(-sum(len(chunk) + _CHUNK_OVERHEAD_BYTES for chunk in read))

    def _count_bytes(self, more_bytes: int) -> None:
        self.buffered_bytes += more_bytes
        self._budget.used_bytes += more_bytes

    def _release(self) -> None:
        """Nobody reads any more."""
        self._chunks.clear()
        self._count_bytes(-self.buffered_bytes)

    async def _wait_for_space(self) -> None:
        while not self._recordable and self._lead_bytes() > self._max_bytes // 2:
            self._space_freed.clear()
            await self._space_freed.wait()

    def _lead_bytes(self) -> int:
        """Bytes between the source and the fastest reader."""
        return self._total_bytes - max((reader.bytes_read for reader in self._subscribers), default=self._total_bytes)

    def _end(self, failure: Exception | None) -> None:
        self._failure = failure
        self._ended = True
        recording = self.recording
        if recording is not None and self._on_complete is not None:
            try:
                self._on_complete(recording)
            except Exception:
                log.exception("a stream is not kept")
        # Only now: whoever came between the two would find neither the stream nor its recording.
        self._on_closed()
        self._notify()
        if not self._subscribers:
            self._release()

    def _notify(self) -> None:
        news, self._changed = self._changed, asyncio.Event()
        news.set()


class StreamSubscriber(AsyncIterator[bytes]):
    """One reader's place in a stream."""

    coalesced: bool
    """Another request had opened the stream. Known for good with the first chunk."""

    def __init__(
        self, board: Callable[[], tuple[BroadcastStream, bool]], personal: tuple[type[Exception], ...]
    ) -> None:
        """`board` finds or opens the stream, and says which."""
        self._join = board
        self._caller_errors = personal
        self.chunks_read = 0
        self.bytes_read = 0
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
        """It has read enough."""
        self._stream.unsubscribe(self)

    def _subscribe(self) -> None:
        self._stream, self.coalesced = self._join()
        self._stream.subscribe(self)


class StreamBroadcast:
    """Streams under way, by key."""

    def __init__(
        self,
        max_bytes: int = MAX_STREAM_BYTES,
        max_all_bytes: int = MAX_TOTAL_BYTES,
        personal: tuple[type[Exception], ...] = (),
    ) -> None:
        """Keep `max_bytes` of each stream, and about `max_all_bytes` of all. `personal` are failures of who opened a
        stream: the next of those who have read nothing yet opens it anew, and the others join that."""
        self._caller_errors = personal
        self._max_bytes = max_bytes
        self._budget = BufferBudget(max_all_bytes)
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
        """Read the stream of `key`, which `source` opens if nobody has; leaving the block leaves the stream.

        `on_complete` gets the recording once, however many readers there are and whether or not the one who opened
        the stream has stayed. It must not block.
        """

        def board() -> tuple[BroadcastStream, bool]:
            flight = self._streams.get(key)
            return (flight, True) if flight else (self._open(key, source, on_complete), False)

        reader = StreamSubscriber(board, self._caller_errors)
        try:
            yield reader
        finally:
            reader.unsubscribe()

    def _open(self, key: Hashable, source: Source, on_complete: OnComplete | None) -> BroadcastStream:
        def closed() -> None:
            if self._streams.get(key) is flight:
                del self._streams[key]

        flight = BroadcastStream(source, self._max_bytes, on_complete, closed, self._budget)
        self._streams[key] = flight
        flight.task = self._tasks.start(flight.run())
        return flight


async def _close(upstream: AsyncIterator[Any]) -> None:
    """Close a generator; other iterators have nothing to close."""
    close = getattr(upstream, "aclose", None)
    if close is not None:
        await close()
