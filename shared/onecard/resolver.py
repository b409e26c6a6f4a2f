"""Host names to addresses, without harm from a name server that is slow or away."""

import asyncio
import ipaddress
import socket
import threading
from collections import deque

OLD_SECONDS = 60.0
"""What was to be kept until so long ago is used only if a new look-up fails."""
AGAIN_SECONDS = 1.0
"""From a look-up that has failed to the next one, where an older outcome can be used."""


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
        now = asyncio.get_running_loop().time()
        if now >= self._kept_until and (self._running is None or self._running.done()):
            self._running = self._begin()
        if self._running is not None and (not self._kept or now >= self._kept_until + OLD_SECONDS):
            try:
                return await asyncio.shield(self._running)
            except OSError:
                if not self._kept:
                    raise
        self._kept.rotate(-1)
        return list(self._kept)

    def _begin(self) -> "asyncio.Future[list[str]]":
        """A look-up.

        Raises:
            OSError: there can be no more threads.
        """
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[list[str]] = loop.create_future()
        try:
            threading.Thread(target=self._look_up, args=(loop, outcome), daemon=True, name="dns").start()
        except RuntimeError:
            raise OSError("no thread for a look-up") from None
        return outcome

    def _look_up(self, loop: asyncio.AbstractEventLoop, future: "asyncio.Future[list[str]]") -> None:
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            outcome: list[str] | OSError = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        except Exception as error:  # Such as a name that cannot be one; whoever waits has to hear of it.
            outcome = error if isinstance(error, OSError) else OSError("no look-up")

        def tell() -> None:
            if isinstance(outcome, OSError):
                future.set_exception(outcome)
                future.exception()  # Retrieved: the one who asked may have given up.
                self._kept_until = max(self._kept_until, loop.time() + AGAIN_SECONDS) if self._kept else 0.0
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
