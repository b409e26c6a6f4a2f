"""A TCP proxy in front of a server that can delay responses and accept TLS."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager, suppress
from threading import Thread


class Proxy:
    """Forwards bytes. Its delay can be changed while it runs."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.port = 0
        self.delay = 0.0
        """Delay of each chunk of a response, in seconds."""
        self.accepted = 0
        self._pipes: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection."""
        self.accepted += 1
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.close()
            return
        for come, go, late in ((reader, there_writer, False), (there_reader, writer, True)):
            pipe = asyncio.create_task(self._pipe(come, go, late))
            self._pipes.add(pipe)
            pipe.add_done_callback(self._pipes.discard)

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, late: bool) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if late:
                    await asyncio.sleep(self.delay)
                writer.write(data)
                await writer.drain()
        writer.close()

    async def close(self) -> None:
        """End all connections."""
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)


@asynccontextmanager
async def proxy(port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[Proxy]:
    """Run a proxy on a free port.

    Args:
        port: port of the server.
        tls: accepts TLS with this context; None: plain TCP.

    Yields:
        The running proxy.
    """
    made = Proxy(port)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=tls)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await made.close()


@contextmanager
def proxy_beside(port: int) -> Iterator[Proxy]:
    """Run a proxy in a thread of its own, for callers without an event loop.

    Args:
        port: port of the server.

    Yields:
        The running proxy.
    """
    running: Future[tuple[Proxy, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def run() -> None:
        try:
            async with proxy(port) as made:
                stop = asyncio.Event()
                running.set_result((made, asyncio.get_running_loop(), stop))
                await stop.wait()
        except OSError as error:
            running.set_exception(error)

    thread = Thread(target=asyncio.run, args=[run()], name="proxy")
    thread.start()
    made, loop, stop = running.result()
    try:
        yield made
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
