"""One stream for all who ask for it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress

import pytest

from onecard.coalescing.single_flight import FlightCancelled
from onecard.coalescing.stream_broadcast import (
    DONE_EVENT,
    MAX_TOTAL_BYTES,
    SlowSubscriber,
    StreamBroadcast,
    StreamSubscriber,
)
from onecard.coalescing.stream_budget import REDUCED_STREAM_BYTES, STALLED_SECONDS
from tests.shared.cache.test_flight import settle

CHUNKS = [b"data: %d\n\n" % number for number in range(20)]


class FakeStream:
    """A stream that sends when told to, and knows whether it was closed."""

    def __init__(self, chunks: list[bytes] = CHUNKS, error: BaseException | None = None) -> None:
        self.chunks = chunks
        self.error = error
        self.opened = 0
        self.sent = 0
        self.closed = False
        self.gate = asyncio.Semaphore(0)

    async def __call__(self) -> AsyncIterator[bytes]:
        """Open it."""
        self.opened += 1
        try:
            for chunk in self.chunks:
                await self.gate.acquire()
                self.sent += 1
                yield chunk
            if self.error is not None:
                raise self.error
        finally:
            self.closed = True

    def go(self, chunks: int = 10_000) -> None:
        """Send so many more."""
        for _ in range(chunks):
            self.gate.release()


async def read(flights: StreamBroadcast, upstream: FakeStream, got: list[bytes], stop_after: int | None = None) -> None:
    """Read to the end, or leave after some chunks."""
    async with flights.subscribe("k", upstream) as reader:
        async for chunk in reader:
            got.append(chunk)
            if len(got) == stop_after:
                return


def crowd(
    flights: StreamBroadcast, upstream: FakeStream, size: int
) -> "tuple[list[list[bytes]], list[asyncio.Task[None]]]":
    """So many readers, and what each gets."""
    got: list[list[bytes]] = [[] for _ in range(size)]
    return got, [asyncio.create_task(read(flights, upstream, mine)) for mine in got]


async def test_all_get_the_same_chunks_in_order_from_one_upstream() -> None:
    """Those who come later, too: what was so far, then live."""
    flights, upstream = StreamBroadcast(), FakeStream()
    early, first = crowd(flights, upstream, 50)
    await settle()
    upstream.go(7)
    await settle()
    late, second = crowd(flights, upstream, 50)
    await settle()
    assert late[0] == CHUNKS[:7], "the chunks so far come at once"
    upstream.go()
    await asyncio.gather(*first, *second)
    assert upstream.opened == 1
    assert all(mine == CHUNKS for mine in early + late)
    assert len(flights) == 0


async def test_half_of_them_leaving_changes_nothing_for_the_rest() -> None:
    """The one who opened the stream among those who leave."""
    flights, upstream = StreamBroadcast(), FakeStream()
    got, tasks = crowd(flights, upstream, 100)
    await settle()
    upstream.go(10)
    await settle()
    for task in tasks[:50]:
        task.cancel()
    await settle()
    upstream.go()
    await asyncio.gather(*tasks[50:])
    assert all(mine == CHUNKS for mine in got[50:])
    assert upstream.opened == 1


@pytest.mark.parametrize("chunks_before", [0, 5])
async def test_all_leaving_closes_the_upstream_at_once(chunks_before: int) -> None:
    """Also before its first chunk; whoever comes next gets a new one."""
    flights, upstream = StreamBroadcast(), FakeStream()
    _, tasks = crowd(flights, upstream, 3)
    await settle()
    upstream.go(chunks_before)
    await settle()
    for task in tasks:
        task.cancel()
    again = FakeStream()
    got, late = crowd(flights, again, 1)
    await settle()
    assert upstream.closed
    assert upstream.sent == chunks_before
    again.go()
    await late[0]
    assert got == [CHUNKS]


async def test_an_upstream_error_comes_after_the_chunks_before_it() -> None:
    """For every reader, a late or slow one too, and nothing is recorded."""
    error = ConnectionError("broke off")
    flights, upstream = StreamBroadcast(), FakeStream(error=error)
    recorded: list[object] = []

    async def reader() -> tuple[list[bytes], BaseException | None]:
        got: list[bytes] = []
        async with flights.subscribe("k", upstream, recorded.append) as stream:
            try:
                async for chunk in stream:
                    got.append(chunk)
                    await asyncio.sleep(0)
            except ConnectionError as seen:
                assert stream._stream.recording is None
                return got, seen
        return got, None

    tasks = [asyncio.create_task(reader()) for _ in range(20)]
    await settle()
    upstream.go()
    for got, seen in await asyncio.gather(*tasks):
        assert (got, seen) == (CHUNKS, error)
    assert recorded == []
    assert len(flights) == 0


async def test_a_source_that_does_not_open_is_an_error_to_all() -> None:
    """As is one that is cancelled from inside; nobody waits for ever."""
    for error, seen in ((ValueError("no"), ValueError), (asyncio.CancelledError(), FlightCancelled)):
        flights, upstream = StreamBroadcast(), FakeStream([], error)
        _, tasks = crowd(flights, upstream, 3)
        outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert [type(outcome) for outcome in outcomes] == [seen] * 3


async def test_a_whole_stream_is_recorded_once() -> None:
    """Whoever is left to read it; before its end there is no recording."""
    flights, upstream = StreamBroadcast(), FakeStream()
    recorded: list[tuple[bytes, ...]] = []
    async with flights.subscribe("k", upstream, recorded.append) as first:
        async with flights.subscribe("k", upstream, recorded.append) as second:
            assert (first.coalesced, second.coalesced) == (False, True)
            upstream.go(5)
            await settle()
            assert first._stream.recording is None
            assert recorded == []
        upstream.go()
        assert [chunk async for chunk in first] == CHUNKS
        assert first._stream.recording == tuple(CHUNKS)
    assert recorded == [tuple(CHUNKS)]


async def test_the_recording_is_handed_over_before_the_stream_can_no_longer_be_joined() -> None:
    """So that a request in between finds one or the other, and no second computation begins."""
    flights, upstream = StreamBroadcast(), FakeStream()
    joinable: list[int] = []
    async with flights.subscribe("k", upstream, lambda _: joinable.append(len(flights))) as stream:
        upstream.go()
        assert [chunk async for chunk in stream] == CHUNKS
    assert joinable == [1]


async def test_a_recorder_that_fails_hurts_no_reader() -> None:
    """They have their stream, and it ends."""
    flights, upstream = StreamBroadcast(), FakeStream()

    def fails(_: object) -> None:
        raise ValueError("disk full")

    async with flights.subscribe("k", upstream, fails) as stream:
        upstream.go()
        assert [chunk async for chunk in stream] == CHUNKS
    assert len(flights) == 0


LONG = [b"%03d" % number + b"x" * 997 for number in range(200)]
BOUND = 20_000


async def test_a_stream_over_the_bound_is_not_recorded_and_not_joined() -> None:
    """Those who read it get all of it; whoever comes later opens another."""
    flights, upstream = StreamBroadcast(BOUND), FakeStream(LONG)
    recorded: list[object] = []
    got: list[bytes] = []
    async with flights.subscribe("k", upstream, recorded.append) as stream:
        upstream.go()
        async for chunk in stream:
            got.append(chunk)
            if len(got) == 100:
                assert len(flights) == 0
    assert got == LONG
    assert recorded == []


async def test_memory_is_bounded_while_the_only_reader_is_slow() -> None:
    """The source is held back, since nobody is kept waiting by that."""
    flights, upstream = StreamBroadcast(BOUND), FakeStream(LONG)
    upstream.go()
    async with flights.subscribe("k", upstream) as stream:
        flight = stream._stream
        for expected in LONG:
            await settle()
            assert flight.buffered_bytes <= BOUND + 2 * 1064
            assert await anext(stream) == expected
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_a_slow_reader_holds_up_nobody() -> None:
    """It is cut off when it is half of the bound behind; the others get everything, and memory stays bounded."""
    flights, upstream = StreamBroadcast(BOUND), FakeStream(LONG)
    got: list[list[bytes]] = [[], []]
    async with flights.subscribe("k", upstream) as slow:
        tasks = [asyncio.create_task(read(flights, upstream, mine)) for mine in got]
        await settle()
        assert await_first(slow)
        for _ in LONG:
            upstream.go(1)
            await settle()
            assert slow._stream.buffered_bytes <= BOUND + 2 * 1064
        await asyncio.gather(*tasks)
        assert got == [LONG, LONG]
        with pytest.raises(SlowSubscriber):
            await anext(slow)


def await_first(reader: StreamSubscriber) -> bool:
    """The reader has not read anything."""
    return reader.chunks_read == 0


async def test_readers_of_one_speed_are_not_cut_off() -> None:
    """However far ahead the source runs."""
    flights, upstream = StreamBroadcast(BOUND), FakeStream(LONG)
    upstream.go()
    got, tasks = crowd(flights, upstream, 10)
    await asyncio.gather(*tasks)
    assert all(mine == LONG for mine in got)


async def test_a_reader_that_breaks_off_early_leaves() -> None:
    """By an exception in its own loop as well."""
    flights, upstream = StreamBroadcast(), FakeStream()
    upstream.go(3)
    with suppress(ZeroDivisionError):
        async with flights.subscribe("k", upstream) as stream:
            async for _ in stream:
                raise ZeroDivisionError
    await settle()
    assert upstream.closed
    assert len(flights) == 0


async def test_many_streams_whose_readers_stall_are_held_back_together() -> None:
    """Each is far below its own bound; together they stay about theirs, and go on when they are read."""
    chunk = b"x" * 10_000
    sent = 0

    async def source() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield chunk

    flights = StreamBroadcast(max_all_bytes=500_000)
    async with AsyncExitStack() as closing:
        readers = [await closing.enter_async_context(flights.subscribe(number, source)) for number in range(10)]
        await settle()
        assert sent * len(chunk) < 500_000 + 10 * (REDUCED_STREAM_BYTES + 2 * len(chunk))
        assert [len([chunk async for chunk in reader]) for reader in readers] == [100] * 10
    assert flights._budget.used_bytes == 0


PIECE = b"data: " + b"x" * 9_992 + b"\n\n"
SHORT = [b"data: %03d" % number + b"x" * 240 + b"\n\n" for number in range(400)]


class Crowded:
    """Streams of which many are long and have readers that take their first chunk and nothing more."""

    def __init__(self) -> None:
        self.now = 0.0
        self.flights = StreamBroadcast(clock=lambda: self.now)
        self.stalled: list[StreamSubscriber] = []

    @property
    def used_bytes(self) -> int:
        return self.flights._budget.used_bytes

    async def stall(self, closing: AsyncExitStack, count: int, chunks: int = 10_000) -> None:
        """Open so many more, each so long."""
        for _ in range(count):
            source = FakeStream([PIECE] * chunks)
            source.go(chunks)
            key = ("stalled", len(self.stalled))
            reader = await closing.enter_async_context(self.flights.subscribe(key, source))
            assert await anext(reader) == PIECE
            self.stalled.append(reader)
            await settle()


async def test_long_streams_whose_readers_stall_keep_no_other_from_being_recorded_and_joined() -> None:
    """Late, too: who joins has all of it, and the recording is whole."""
    crowded, upstream = Crowded(), FakeStream(SHORT)
    recorded: list[tuple[bytes, ...]] = []
    async with AsyncExitStack() as closing:
        await crowded.stall(closing, 17)
        assert crowded.flights._budget.is_short
        first = await closing.enter_async_context(crowded.flights.subscribe("k", upstream, recorded.append))
        upstream.go(200)
        got = [await anext(first) for _ in range(200)]
        second = await closing.enter_async_context(crowded.flights.subscribe("k", upstream, recorded.append))
        assert second.coalesced
        upstream.go()
        assert got + [chunk async for chunk in first] == SHORT
        assert [chunk async for chunk in second] == SHORT
        assert recorded == [tuple(SHORT)]
        assert crowded.used_bytes < MAX_TOTAL_BYTES
    await settle()
    assert (len(crowded.flights), crowded.used_bytes) == (0, 0)


@pytest.mark.parametrize("chunks", [10_000, 390], ids=["paused", "ended"])
async def test_readers_that_stall_for_long_are_cut_off_when_memory_is_short(chunks: int) -> None:
    """Whether their source waits for them or has ended. Who takes something now and then is not."""
    crowded, upstream = Crowded(), FakeStream(SHORT)
    async with AsyncExitStack() as closing:
        await crowded.stall(closing, 13, chunks)
        reading = await closing.enter_async_context(crowded.flights.subscribe("k", upstream))
        crowded.now += STALLED_SECONDS - 1
        assert await anext(crowded.stalled[0]) == PIECE
        upstream.go(1)
        assert await anext(reading) == SHORT[0]
        assert crowded.flights._budget.is_short
        crowded.now += 2
        upstream.go(1)
        assert await anext(reading) == SHORT[1]
        await settle()
        assert not crowded.flights._budget.is_short
        assert await anext(crowded.stalled[0]) == PIECE
        for reader in crowded.stalled[1:12]:
            with pytest.raises(SlowSubscriber):
                await anext(reader)
        crowded.now += 10 * STALLED_SECONDS
        upstream.go()
        assert [chunk async for chunk in reading] == SHORT[2:]


async def test_who_is_behind_when_memory_gets_short_may_catch_up() -> None:
    """At full speed it is no slow reader; one that falls further behind is."""
    crowded, upstream = Crowded(), FakeStream([PIECE] * 200)
    async with AsyncExitStack() as closing:
        first, late, slow = [
            await closing.enter_async_context(crowded.flights.subscribe("k", upstream)) for _ in range(3)
        ]
        upstream.go(100)
        for _ in range(100):
            await anext(first)
        await crowded.stall(closing, 17)
        for _ in range(100):
            upstream.go(1)
            await anext(first)
            await anext(late)
            await anext(late)
        for reader in (first, late):
            with pytest.raises(StopAsyncIteration):
                await anext(reader)
        with pytest.raises(SlowSubscriber):
            await anext(slow)


async def test_who_leaves_on_the_last_event_does_not_spoil_the_recording() -> None:
    """OpenAI's SDK closes the connection on reading [DONE], before the stream's end."""
    recorded: list[tuple[bytes, ...]] = []
    end = asyncio.Event()

    async def source() -> AsyncIterator[bytes]:
        yield DONE_EVENT
        await end.wait()

    flights = StreamBroadcast()
    async with flights.subscribe("a", source, recorded.append) as reader:
        assert await anext(reader) == DONE_EVENT
    end.set()
    await settle()
    assert recorded == [(DONE_EVENT,)]
    assert flights._budget.used_bytes == 0


class StreamRefused(Exception):
    """A failure of one caller."""


@pytest.mark.parametrize("leader", ["flooder", "other"])
async def test_a_failure_of_one_caller_is_not_handed_to_those_who_share(leader: str) -> None:
    """Who is refused is refused, whoever came first; the next of the others opens the stream anew, for all of them."""
    flights = StreamBroadcast(caller_errors=(StreamRefused,))
    refused, opened = FakeStream([], StreamRefused()), FakeStream()
    upstreams = [refused, opened, opened] if leader == "flooder" else [opened, refused, opened]
    got: list[list[bytes]] = [[], [], []]
    recorded: list[tuple[bytes, ...]] = []

    async def reads(upstream: FakeStream, mine: list[bytes]) -> bool:
        async with flights.subscribe("k", upstream, recorded.append) as reader:
            mine += [chunk async for chunk in reader]
            return reader.coalesced

    tasks = [asyncio.create_task(reads(*each)) for each in zip(upstreams, got, strict=True)]
    await settle()
    opened.go()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    if leader == "flooder":
        assert isinstance(outcomes[0], StreamRefused)
        assert (outcomes[1:], got[1:]) == ([False, True], [CHUNKS, CHUNKS])
    else:
        assert (outcomes, got) == ([False, True, True], [CHUNKS] * 3)
    assert (opened.opened, recorded) == (1, [tuple(CHUNKS)])
    assert (len(flights), flights._budget.used_bytes) == (0, 0)


async def test_who_has_read_of_a_stream_shares_its_failure() -> None:
    """What another stream would say does not go on from there."""
    flights, upstream = StreamBroadcast(caller_errors=(StreamRefused,)), FakeStream(error=StreamRefused())
    _, tasks = crowd(flights, upstream, 3)
    await settle()
    upstream.go()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StreamRefused] * 3
    assert upstream.opened == 1
