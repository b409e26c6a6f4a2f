"""Host names to addresses, without harm from a name server that is slow or away."""

import asyncio
import ipaddress
import socket
import threading
from collections import deque


class Resolver:
    """Looks one host name up, one look-up at a time, for all who ask.

    In a thread of its own: a look-up cannot be cancelled, and stuck ones would fill asyncio's thread pool, or uvloop's,
    where others wait behind them.
    """

    def __init__(self, host: str, port: int, keep_seconds: float = 0.0) -> None:
        """Take an outcome for true for `keep_seconds`, and longer while a new look-up is under way or fails."""
        self._host = host
        self._port = port
        self._keep_seconds = keep_seconds
        self._kept = deque([host] if _is_address(host) else [])
        self._kept_until = float("inf") if self._kept else 0.0
        """A second of the loop's clock."""
        self._running: asyncio.Future[list[str]] | None = None

    async def addresses(self) -> list[str]:
        """The host's IP addresses; with each call another one of those that are kept comes first.

        Raises:
            OSError: there is no such host.
        """
        loop = asyncio.get_running_loop()
        if loop.time() >= self._kept_until and (self._running is None or self._running.done()):
            self._running = loop.create_future()
            thread = threading.Thread(target=self._look_up, args=(loop, self._running), daemon=True, name="dns")
            thread.start()
        if self._kept:
            self._kept.rotate(-1)
            return list(self._kept)
        assert self._running is not None  # noqa: S101 - nothing is kept
        return await asyncio.shield(self._running)

    def _look_up(self, loop: asyncio.AbstractEventLoop, future: "asyncio.Future[list[str]]") -> None:
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            outcome: list[str] | OSError = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that cannot be one.
            outcome = error if isinstance(error, OSError) else OSError("not a host name")

        def tell() -> None:
            if isinstance(outcome, OSError):
                future.set_exception(outcome)
                future.exception()  # Retrieved: the one who asked may have given up.
                return
            future.set_result(outcome)
            if self._keep_seconds:
                self._kept, self._kept_until = deque(outcome), loop.time() + self._keep_seconds

        try:
            loop.call_soon_threadsafe(tell)
        except RuntimeError:
            return  # The loop has closed meanwhile.


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
