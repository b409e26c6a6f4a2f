"""One stream for all who ask for it: late joiners get the chunks so far, then live ones.

Memory, for each stream: the chunks are kept once, whoever reads them. Up to `max_bytes` of them are kept from the
beginning, for late joiners and for the recording. A longer stream is no longer recorded and takes no more joiners;
from then on, what everybody has read goes. The source is held back when even the fastest reader is half of `max_bytes`
behind it, and a reader that is half of `max_bytes` behind the fastest is cut off, so that at most `max_bytes` and two
chunks are kept. Many streams whose readers stall would still be many times `max_bytes`: see `MAX_ALL_BYTES`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from onecard import logs
from onecard.cache.flight import Abandoned, Tasks

MAX_STREAM_BYTES = 4_000_000
"""About 16,000 tokens as OpenAI's chunks."""
MAX_ALL_BYTES = 64_000_000
"""Of all streams together. Beyond it none is recorded further, and each keeps `CROWDED_BYTES` at most: then the sources
are held back as if each reader had its stream for itself."""
CROWDED_BYTES = 128_000
LAST = b"data: [DONE]\n\n"
"""After it nothing comes but the end. Who leaves on reading it has had everything."""
_CHUNK_BYTES = 64
"""Counted for each chunk on top of its bytes: its header and its place in a list."""

log = logs.logger()

Source = Callable[[], AsyncIterator[bytes]]
"""Opens the stream. An exception, at any point, is the stream's end for everybody."""
Complete = Callable[[tuple[bytes, ...]], None]


class TooSlow(Exception):
    """This reader is too far behind the others. Their stream goes on."""


@dataclass
class Room:
    """What all streams keep together."""

    max_bytes: int
    kept_bytes: int = 0

    @property
    def crowded(self) -> bool:
        """There is more than there should be."""
        return self.kept_bytes > self.max_bytes


class StreamFlight:
    """A stream, its chunks and its readers."""

    def __init__(
        self, source: Source, max_bytes: int, on_complete: Complete | None, on_closed: Callable[[], None], room: Room
    ):
        """Call `on_complete` with all chunks if the source ends well and was short enough to be recorded; `on_closed`
        when nobody may join any more.
        """
        self._all = room
        self._source = source
        self._max_bytes = max_bytes
        self._on_complete = on_complete
        self._on_closed = on_closed
        self._chunks: list[bytes] = []
        self._dropped = 0
        """Chunks that everybody has read and that are gone."""
        self._bytes = 0
        self.kept_bytes = 0
        """Size of the chunks that are kept now."""
        self._recorded = True
        self._ended = False
        self._failure: Exception | None = None
        self._readers: set[StreamReader] = set()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    @property
    def recording(self) -> tuple[bytes, ...] | None:
        """All chunks, once the source has ended well; None before, after a failure, and for a stream too long."""
        whole = self._ended and self._failure is None and self._recorded
        return tuple(self._chunks) if whole else None

    def enter(self, reader: "StreamReader") -> None:
        """One more reader, from the first chunk on."""
        self._readers.add(reader)

    async def run(self) -> None:
        """Read the source to its end."""
        failure: Exception | None = Abandoned()
        try:
            upstream = self._source()
            try:
                async for chunk in upstream:
                    self._append(chunk)
                    await self._until_there_is_room()
            finally:
                await _close(upstream)
            failure = None
        except Exception as error:
            failure = error
        finally:
            self._end(failure)

    def leave(self, reader: "StreamReader") -> None:
        """One reader less; the last one takes the source along."""
        self._readers.discard(reader)
        self._room.set()
        if self._readers:
            return
        if self._ended:
            self._forget()
        elif self.task is not None and not self._is_over():
            self._on_closed()
            self.task.cancel()

    def _is_over(self) -> bool:
        return bool(self._chunks) and self._chunks[-1].endswith(LAST)

    async def chunk(self, reader: "StreamReader") -> bytes:
        """The chunk that `reader` has not had yet, waiting for it if need be.

        Raises:
            StopAsyncIteration: there is none.
            TooSlow: the reader has been cut off.
            Exception: the source's, after the chunks that came before it.
        """
        while True:
            if reader not in self._readers:
                raise TooSlow
            at = reader.chunks_read - self._dropped
            if at < len(self._chunks):
                chunk = self._chunks[at]
                reader.chunks_read += 1
                reader.bytes_read += len(chunk) + _CHUNK_BYTES
                self._room.set()
                return chunk
            if self._failure is not None:
                raise self._failure.with_traceback(None)  # Each raise would add to a traceback that all share.
            if self._ended:
                raise StopAsyncIteration
            await self._news.wait()

    def _append(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._bytes += len(chunk) + _CHUNK_BYTES
        self._keep(len(chunk) + _CHUNK_BYTES)
        if self._all.crowded:
            self._max_bytes = min(self._max_bytes, CROWDED_BYTES)
        if self._recorded and (self._all.crowded or self._bytes > self._max_bytes):
            self._recorded = False
            self._on_closed()
        if not self._recorded:
            self._cut_off_the_slow()
            self._drop_what_all_have_read()
        self._tell()

    def _cut_off_the_slow(self) -> None:
        fastest = max((reader.bytes_read for reader in self._readers), default=0)
        behind = {reader for reader in self._readers if fastest - reader.bytes_read > self._max_bytes // 2}
        self._readers -= behind

    def _drop_what_all_have_read(self) -> None:
        read_by_all = min((reader.chunks_read for reader in self._readers), default=self._dropped)
        read = self._chunks[: read_by_all - self._dropped]
        del self._chunks[: len(read)]
        self._dropped = read_by_all
        self._keep(-sum(len(chunk) + _CHUNK_BYTES for chunk in read))

    def _keep(self, more_bytes: int) -> None:
        self.kept_bytes += more_bytes
        self._all.kept_bytes += more_bytes

    def _forget(self) -> None:
        """Nobody reads any more."""
        self._chunks.clear()
        self._keep(-self.kept_bytes)

    async def _until_there_is_room(self) -> None:
        while not self._recorded and self._ahead() > self._max_bytes // 2:
            self._room.clear()
            await self._room.wait()

    def _ahead(self) -> int:
        """Bytes between the source and the fastest reader."""
        return self._bytes - max((reader.bytes_read for reader in self._readers), default=self._bytes)

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
        self._tell()
        if not self._readers:
            self._forget()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


class StreamReader(AsyncIterator[bytes]):
    """One reader's place in a stream."""

    coalesced: bool
    """Another request had opened the stream. Known for good with the first chunk."""

    def __init__(self, board: Callable[[], tuple[StreamFlight, bool]], personal: tuple[type[Exception], ...]) -> None:
        """`board` finds or opens the stream, and says which."""
        self._board = board
        self._personal = personal
        self.chunks_read = 0
        self.bytes_read = 0
        self._enter()

    async def __anext__(self) -> bytes:
        while True:
            try:
                return await self._flight.chunk(self)
            except self._personal:
                if self.chunks_read or not self.coalesced:
                    raise
            self.leave()
            self._enter()

    def leave(self) -> None:
        """It has read enough."""
        self._flight.leave(self)

    def _enter(self) -> None:
        self._flight, self.coalesced = self._board()
        self._flight.enter(self)


class StreamFlights:
    """Streams under way, by key."""

    def __init__(
        self,
        max_bytes: int = MAX_STREAM_BYTES,
        max_all_bytes: int = MAX_ALL_BYTES,
        personal: tuple[type[Exception], ...] = (),
    ) -> None:
        """Keep `max_bytes` of each stream, and about `max_all_bytes` of all. `personal` are failures of who opened a
        stream: the next of those who have read nothing yet opens it anew, and the others join that."""
        self._personal = personal
        self._max_bytes = max_bytes
        self._room = Room(max_all_bytes)
        self._flights: dict[Hashable, StreamFlight] = {}
        self._tasks = Tasks()

    def __len__(self) -> int:
        return len(self._flights)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._flights

    @asynccontextmanager
    async def join(
        self, key: Hashable, source: Source, on_complete: Complete | None = None
    ) -> AsyncIterator[StreamReader]:
        """Read the stream of `key`, which `source` opens if nobody has; leaving the block leaves the stream.

        `on_complete` gets the recording once, however many readers there are and whether or not the one who opened
        the stream has stayed. It must not block.
        """

        def board() -> tuple[StreamFlight, bool]:
            flight = self._flights.get(key)
            return (flight, True) if flight else (self._open(key, source, on_complete), False)

        reader = StreamReader(board, self._personal)
        try:
            yield reader
        finally:
            reader.leave()

    def _open(self, key: Hashable, source: Source, on_complete: Complete | None) -> StreamFlight:
        def closed() -> None:
            if self._flights.get(key) is flight:
                del self._flights[key]

        flight = StreamFlight(source, self._max_bytes, on_complete, closed, self._room)
        self._flights[key] = flight
        flight.task = self._tasks.begin(flight.run())
        return flight


async def _close(upstream: AsyncIterator[Any]) -> None:
    """Close a generator; other iterators have nothing to close."""
    close = getattr(upstream, "aclose", None)
    if close is not None:
        await close()
