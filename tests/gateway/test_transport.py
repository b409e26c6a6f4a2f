"""HTTP with the services: what real sockets say, well and badly, and which connections serve again."""

import asyncio
import gc
import weakref
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.upstream import http_client
from gateway.upstream.connection import MAX_HEAD_BYTES, BadResponse, Connection, NoResponse
from gateway.upstream.http_client import HttpResponse, Origin, request_head
from tests.fuzz.hostile import FLOODS, STRAY_RESPONSE
from tests.gateway.socket_services import (
    BODY,
    OK,
    UNTIL_THE_END,
    WHOLE,
    ask,
    fake_service,
    open_connections,
    origin_of,
    read,
)
from tests.shared.cache.support import eventually

BROKEN = {
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    "length and chunks": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a head without end": b"HTTP/1.1 200 OK\r\nx-padding: " + b"x" * MAX_HEAD_BYTES,
    "not HTTP/1.1": b"HTTP/2.0 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    "a status below all others": b"HTTP/1.1 099 x\r\ncontent-length: 5\r\n\r\nhello",
    "a status above all others": b"HTTP/1.1 600 x\r\ncontent-length: 5\r\n\r\nhello",
    "an encoding that nobody asked for": OK + b"content-encoding: gzip\r\ncontent-length: 5\r\n\r\nhello",
    "a transfer encoding that nobody knows": OK + b"transfer-encoding: gzip\r\n\r\nhello",
    "chunks in chunks": OK + b"transfer-encoding: chunked, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "a null in a header": OK + b"x: a\0b\r\ncontent-length: 5\r\n\r\nhello",
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
}

ORIGIN = Origin.of("http://127.0.0.1:8001")


class Line(asyncio.Transport):
    """A transport that takes whatever is written: the connection's other end is the test."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = False

    def writelines(self, list_of_data: object) -> None: ...

    def abort(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.ended

    def get_write_buffer_size(self) -> int:
        return 0


@settings(deadline=None)
@given(st.sampled_from(sorted(WHOLE)), st.lists(st.integers(1, 120), max_size=8))
def test_an_answer_is_the_same_however_it_is_cut(kind: str, cuts: Sequence[int]) -> None:
    """Byte by byte or at once."""

    async def hear() -> None:
        connection = Connection(asyncio.get_running_loop(), set())
        connection.connection_made(Line())
        asked = asyncio.ensure_future(connection.request(b"", b""))
        await asyncio.sleep(0)
        said = WHOLE[kind]
        ends = sorted({*(cut for cut in cuts if cut < len(said)), len(said)})
        for begin, end in zip([0, *ends], ends, strict=False):
            connection.data_received(said[begin:end])
            await asyncio.sleep(0)
        answer = HttpResponse(*await asked, connection, lambda **_: None)
        assert (answer.status, answer.header("x-cache"), answer.is_complete) == (200, "hit", True)
        assert await answer.read() == b"hello"
        assert connection.is_idle

    asyncio.run(hear())


@pytest.mark.parametrize("kind", WHOLE)
async def test_a_connection_serves_again_after_a_whole_answer(kind: str) -> None:
    """One connection for one request after the other, as many as there are requests at a time."""
    async with fake_service(WHOLE[kind]) as (origin, asked), open_connections() as connections:
        for _ in range(3):
            assert await read(connections, origin) == b"hello"
        assert asked == [1, 1, 1]
        both = [await ask(connections, origin) for _ in range(2)]
        assert [await answer.read() for answer in both] == [b"hello", b"hello"]


async def test_an_answer_may_end_with_its_connection() -> None:
    """One that says nothing of its length is whole when the connection ends well."""
    async with fake_service(UNTIL_THE_END, ends=True) as (origin, asked), open_connections() as connections:
        assert [await read(connections, origin) for _ in range(2)] == [b"hello", b"hello"]
        assert asked == [1, 2]


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_a_body_is_whole_at_once(status: int) -> None:
    async with fake_service(b"HTTP/1.1 %d None\r\n\r\n" % status) as (origin, asked), open_connections() as connections:
        assert [await read(connections, origin) for _ in range(2)] == [b"", b""]
        assert asked == [1, 1]


@pytest.mark.parametrize("kind", BROKEN)
async def test_what_is_no_answer_is_a_fault(kind: str) -> None:
    """And its connection is not used again."""
    async with fake_service(BROKEN[kind], WHOLE["length"]) as (origin, asked), open_connections() as connections:
        with pytest.raises(BadResponse):
            await read(connections, origin)
        assert await read(connections, origin) == b"hello"
        assert asked == [1, 2]


@pytest.mark.parametrize("flood", range(len(FLOODS)))
async def test_what_has_no_end_ends_at_once(flood: int) -> None:
    """Trailers, heads, chunk extensions, interim answers, empty lines: little of it is taken."""
    begin, unit = FLOODS[flood]
    ended: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len(BODY))
        writer.write(begin)
        sent = 0
        try:
            while sent < 200_000_000:
                writer.write(unit)
                sent += len(unit)
                await writer.drain()
        except ConnectionError:
            pass
        ended.append(sent)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, open_connections() as connections:
        with pytest.raises(BadResponse):
            await read(connections, origin_of(server))
        await eventually(lambda: bool(ended))
        assert ended[0] < 20_000_000  # What the system's buffers hold, most of all.
        assert not connections.open


@pytest.mark.parametrize("chunk_bytes", [1, 2, 100])
async def test_an_answer_in_small_chunks_is_not_taken_for_framing_without_end(chunk_bytes: int) -> None:
    """However small they are."""
    chunk = b"%x\r\n" % chunk_bytes + b"a" * chunk_bytes + b"\r\n"
    answer = OK + b"transfer-encoding: chunked\r\n\r\n" + chunk * 100_000 + b"0\r\n\r\n"
    async with fake_service(answer) as (origin, _), open_connections() as connections:
        for _ in range(2):
            assert len(await read(connections, origin)) == 100_000 * chunk_bytes


@pytest.mark.parametrize("size", [5, 200_000, 1_000_000])
@pytest.mark.parametrize("read_after", [0.0, 0.2])
@pytest.mark.parametrize("then", [0.0, 0.1])
async def test_an_answer_that_nobody_asked_for_is_no_answer_to_the_next_one(
    size: int, read_after: float, then: float
) -> None:
    """However long the one before it is, and whenever it is read."""
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(len(BODY))
                asked += 1
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size)
                if asked == 1:
                    writer.write(STRAY_RESPONSE)
                    await writer.drain()
                    await asyncio.sleep(0.02)
                    writer.write(STRAY_RESPONSE)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, open_connections() as connections:
        answer = await ask(connections, origin_of(server))
        await asyncio.sleep(read_after)
        assert await answer.read() == b"x" * size
        answer.close()
        await asyncio.sleep(then)
        assert await read(connections, origin_of(server)) == b"x" * size


async def test_an_answer_to_another_request_is_told_by_its_id() -> None:
    """Also one that comes at the very moment in which the connection has been asked again, or that a service mixes up;
    where it tells no id, there is nothing to compare.
    """
    answers = [OK + b"x-request-id: %s\r\ncontent-length: 5\r\n\r\nhello" % told for told in (b"mine", b"another's")]
    async with fake_service(*answers, WHOLE["length"]) as (origin, asked), open_connections() as connections:

        async def once() -> bytes:
            answer = await connections.request("POST", origin, "/x", {"x-request-id": "mine"}, BODY)
            body = await answer.read()
            answer.close()
            return body

        assert await once() == b"hello"
        with pytest.raises(BadResponse):
            await once()
        assert await once() == b"hello"
        assert asked == [1, 1, 2]


async def test_what_belongs_to_a_broken_answer_is_freed_at_once() -> None:
    """And not when the garbage collector comes by."""
    size = 3_000_000
    said = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (size + 1) + b"x" * size
    async with fake_service(said, ends=True) as (origin, _), open_connections() as connections:
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                answer = await ask(connections, origin)
                gone = weakref.ref(answer)
                with pytest.raises(BadResponse):
                    await answer.read()
                answer.close()
                del answer
                assert gone() is None
        finally:
            gc.enable()


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\ncontent-le"])
async def test_a_connection_that_ends_before_an_answer_is_none(said: bytes) -> None:
    async with fake_service(said, ends=True) as (origin, _), open_connections() as connections:
        with pytest.raises(NoResponse):
            await read(connections, origin)


@pytest.mark.parametrize("kind", ["length", "chunked"])
async def test_an_answer_that_breaks_off_is_a_fault_and_never_a_short_answer(kind: str) -> None:
    """What has come before is there all the same."""
    begun = WHOLE[kind][: WHOLE[kind].rindex(b"he") + 2]
    async with fake_service(begun, ends=True) as (origin, _), open_connections() as connections:
        answer = await ask(connections, origin)
        assert await answer.chunk() == b"he"
        with pytest.raises(BadResponse):
            await answer.read()
        answer.close()


async def test_a_request_that_has_not_left_is_not_followed_by_another() -> None:
    """The service has answered before it has read all, and would take the next one for the rest."""
    reading = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(WHOLE["length"])
        await reading.wait()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, open_connections() as connections:
        origin = origin_of(server)
        answer = await connections.request("POST", origin, "/x", {}, bytes(30_000_000))
        assert await answer.read() == b"hello"
        answer.close()
        assert await read(connections, origin) == b"hello"
        await eventually(lambda: len(connections.open) == 1)
        reading.set()


@pytest.mark.parametrize(("method", "times"), [("GET", 2), ("DELETE", 2), ("POST", 1)])
async def test_what_may_be_repeated_is_when_a_kept_connection_ends_just_then(method: str, times: int) -> None:
    """Others are told, and decide themselves: a request may be what the service ends by."""
    requests = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        for number in range(2):
            await reader.readuntil(b"\r\n\r\n")
            requests += 1
            if number == 0:
                writer.write(WHOLE["length"])
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, open_connections() as connections:
        origin = origin_of(server)

        async def once() -> bytes:
            answer = await connections.request(method, origin, "/x", {}, b"")
            body = await answer.read()
            answer.close()
            return body

        assert await once() == b"hello"
        if times == 2:
            assert await once() == b"hello"
        else:
            with pytest.raises(NoResponse):
                await once()
        assert requests == 1 + times


@pytest.mark.parametrize(
    "answer",
    [
        WHOLE["length"] + b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nmore",
        WHOLE["length"].replace(b"OK\r\n", b"OK\r\nconnection: close\r\n"),
    ],
    ids=["an answer that nobody has asked for", "connection: close"],
)
async def test_some_connections_do_not_serve_again(answer: bytes) -> None:
    """No request gets what belongs to another one."""
    async with fake_service(answer, WHOLE["length"]) as (origin, asked), open_connections() as connections:
        assert [await read(connections, origin) for _ in range(2)] == [b"hello", b"hello"]
        assert asked == [1, 2]


async def test_what_comes_on_an_idle_connection_ends_it() -> None:
    """Also a moment after the answer."""
    ended: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len(BODY))
        writer.write(WHOLE["length"])
        await asyncio.sleep(0.05)
        writer.write(WHOLE["length"])
        ended.append(await reader.read())
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, open_connections() as connections:
        origin = origin_of(server)
        assert await read(connections, origin) == b"hello"
        await eventually(lambda: ended == [b""])
        assert await read(connections, origin) == b"hello"
        await eventually(lambda: ended == [b"", b""])


async def test_who_leaves_early_ends_the_connection() -> None:
    """That is what cancels a service's work: in the middle of an answer, and before one."""
    ended: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len(BODY))
        if not ended:
            writer.write(WHOLE["length"][:-2])
        assert await reader.read() == b""
        ended.append(1)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, open_connections() as connections:
        origin = origin_of(server)
        (await ask(connections, origin)).close()
        await eventually(lambda: len(ended) == 1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await ask(connections, origin)
        await eventually(lambda: len(ended) == 2)


async def test_a_service_is_read_from_no_faster_than_its_answer_is() -> None:
    """Then all of it comes, in order."""
    size, sent = 30_000_000, 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        while sent < size:
            writer.write(bytes([sent // 10_000 % 256]) * 10_000)
            sent += 10_000
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, open_connections() as connections:
        answer = await ask(connections, origin_of(server))
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.2)
        assert sent < size  # What lies between: buffers of the system.
        body = await answer.read()
        assert body == b"".join(bytes([number % 256]) * 10_000 for number in range(size // 10_000))
        answer.close()


async def test_idle_connections_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the service ends them, so that no request comes too late."""
    monkeypatch.setattr(http_client, "IDLE_SECONDS", 0.2)
    async with fake_service(WHOLE["length"]) as (origin, asked), open_connections() as connections:
        assert await read(connections, origin) == b"hello"
        await eventually(lambda: not connections.open)
        assert await read(connections, origin) == b"hello"
        assert asked == [1, 2]


async def test_closing_ends_what_is_under_way() -> None:
    """Who waits for an answer, or for the rest of one, hears of it: what we cut ourselves is not whole."""
    async with fake_service(b"", UNTIL_THE_END) as (origin, asked), open_connections() as connections:
        waiting = asyncio.ensure_future(ask(connections, origin))
        await eventually(lambda: asked == [1])
        answer = await ask(connections, origin)
        await connections.aclose()
        with pytest.raises(NoResponse):
            await waiting
        assert await answer.chunk() == b"hello"
        with pytest.raises(BadResponse):
            await answer.read()
        await eventually(lambda: not connections.open)
        with pytest.raises(NoResponse):
            await ask(connections, origin)


@pytest.mark.parametrize("text", ["a\r\nb: c", "a\nb", "a\rb", "a\0b"])
def test_nothing_that_a_request_says_begins_another_line(text: str) -> None:
    with pytest.raises(ValueError, match="line break or a NUL"):
        request_head("POST", ORIGIN, "/x", {"x-request-id": text}, 0)
    with pytest.raises(ValueError, match="line break or a NUL"):
        request_head("GET", ORIGIN, f"/{text}", {}, 0)


def test_a_request_is_as_it_is_meant() -> None:
    """A body has its length, also an empty one of a POST; bytes of a header stay the same bytes."""
    head = request_head("POST", ORIGIN, "/x", {"tracestate": "caf\xe9"}, 0)
    assert head.startswith(b"POST /x HTTP/1.1\r\nhost: 127.0.0.1:8001\r\n")
    assert b"\r\ntracestate: caf\xe9\r\n" in head
    assert head.endswith(b"\r\ncontent-length: 0\r\n\r\n")
    assert b"content-length" not in request_head("GET", ORIGIN, "/x", {}, 0)


@pytest.mark.parametrize(
    ("address", "host", "port", "authority", "prefix"),
    [
        ("http://llm:8001", "llm", 8001, "llm:8001", ""),
        ("http://[::1]:8001/", "::1", 8001, "[::1]:8001", ""),
        ("http://proxy/models/llm/", "proxy", 80, "proxy", "/models/llm"),
        ("https://llm.example", "llm.example", 443, "llm.example", ""),
    ],
)
def test_an_address_leads_somewhere(address: str, host: str, port: int, authority: str, prefix: str) -> None:
    origin = Origin.of(address)
    assert (origin.url.host, origin.url.port, origin.prefix) == (host, port, prefix)
    assert f"\r\nhost: {authority}\r\n".encode() in request_head("GET", origin, "/x", {}, 0)
    assert (origin.tls is not None) == address.startswith("https")
