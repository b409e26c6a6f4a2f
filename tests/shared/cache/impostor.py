"""A TCP server that takes Redis's place and misbehaves."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

CommandHandler = Callable[[list[bytes]], bytes | None]
"""What to send for a command; None to close the connection, empty to stay silent."""


async def _read_command(reader: asyncio.StreamReader) -> list[bytes]:
    count = int((await reader.readline())[1:])
    words = []
    for _ in range(count):
        length = int((await reader.readline())[1:])
        words.append((await reader.readexactly(length + 2))[:-2])
    return words


class FakeRedis:
    """Answers every command as `answer` says; change it while it runs."""

    def __init__(self) -> None:
        self.handle_command: CommandHandler = well_behaved
        self.port = 0
        self.open_connections = 0
        self.accepted = 0
        self.portion = 0
        """Bytes sent at a time, 10 ms apart; 0 sends all at once."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.open_connections += 1
        self.accepted += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError, ValueError):
            while True:
                words = await _read_command(reader)
                answer = self.handle_command(words)
                if answer is None:
                    break
                step = self.portion or max(1, len(answer))
                for at in range(0, len(answer), step):
                    writer.write(answer[at : at + step])
                    await writer.drain()
                    if self.portion:
                        await asyncio.sleep(0.01)
        writer.transport.abort()
        self.open_connections -= 1


@asynccontextmanager
async def fake_redis() -> AsyncIterator[FakeRedis]:
    """A running one, on a free port."""
    fake = FakeRedis()
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    fake.port = server.sockets[0].getsockname()[1]
    try:
        yield fake
    finally:
        server.close()


def well_behaved(words: list[bytes]) -> bytes:
    """An empty Redis that forgets everything."""
    if words[0] == b"MGET":
        return b"*%d\r\n" % (len(words) - 1) + b"$-1\r\n" * (len(words) - 1)
    return b"+OK\r\n"


def silent(_: list[bytes]) -> bytes:
    """Accepts and never answers."""
    return b""


def error(message: bytes) -> CommandHandler:
    """Answers every command with an error."""
    return lambda _: b"-" + message + b"\r\n"
