"""A link to Redis that mends itself, for one sort of command.

Requests use a channel only while it is up, and never wait for a connection: connecting, introducing oneself and finding
out whether Redis is well again is the work of one background task. So what a sick Redis costs a request is the wait
for an answer that does not come, `ANSWER_SECONDS`, for those that are under way when it falls sick; later ones pass.
"""

import asyncio
import ssl
import time
from contextlib import suppress
from typing import Protocol

from onecard import logs
from onecard.cache.address import Address
from onecard.cache.breaker import Breaker
from onecard.cache.dial import CONNECT_SECONDS, dial
from onecard.cache.link import ANSWER_SECONDS, Link, LinkFailure
from onecard.cache.resp import Reply, ServerError, command
from onecard.resolver import Resolver

BEAT_SECONDS = 1.0
"""Between two looks at a Redis that is up, so that a quiet service learns of its loss, too."""

_KNOWN_CODES = frozenset(
    {"ERR", "OOM", "LOADING", "READONLY", "NOAUTH", "WRONGPASS", "NOPERM", "MISCONF", "MASTERDOWN", "MOVED", "BUSY"}
)
"""Errors that are told apart in metrics and logs; a server may answer with anything."""

log = logs.logger()


class ChannelMetrics(Protocol):
    """What a channel reports, by operation; connecting is the operation `connect`."""

    def round_trip(self, operation: str, seconds: float) -> None:
        """One round trip was answered."""

    def failed(self, operation: str, reason: str) -> None:
        """One round trip or connection failed."""

    def up(self, operation: str, is_up: bool) -> None:
        """Redis can be used for it, or can no longer."""


class Alarm:
    """Tells all channels to one Redis when it falls silent, so that a request that uses several waits once."""

    def __init__(self) -> None:
        self._channels: list[Channel] = []

    def connect(self, channel: "Channel") -> None:
        """Tell `channel` too, from now on."""
        self._channels.append(channel)

    def ring(self) -> None:
        """Redis is silent. A channel that finds it well after all is up again when its first probe has passed."""
        for channel in self._channels:
            channel.suspect("silent")


class Channel:
    """One sort of command: each has its own connection and its own health."""

    def __init__(
        self, operation: str, address: Address, metrics: ChannelMetrics, *, probe: bytes, alarm: Alarm | None = None
    ) -> None:
        """Connect in `start`. `probe` is a harmless command of that sort; its answer says whether Redis is well."""
        self.operation = operation
        self._alarm = alarm or Alarm()
        self._alarm.connect(self)
        self._probe = probe
        self._address = address
        self._metrics = metrics
        self._tls = address.ssl_context()
        self._resolver = Resolver(address.host, address.port)
        self._breaker = Breaker(time.monotonic)
        self._link: Link | None = None
        self._sick = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._behind_at = 0.0
        self._told: bool | None = None

    @property
    def up(self) -> bool:
        """Redis can be used."""
        return self._link is not None and self._link.alive and self._breaker.closed

    async def start(self) -> None:
        """Begin to connect; return when it is up, or the first attempt has failed."""
        first = asyncio.Event()
        self._keeper = asyncio.create_task(self._keep(first), name=f"redis-{self.operation}")
        with suppress(TimeoutError):
            async with asyncio.timeout(CONNECT_SECONDS + 2 * ANSWER_SECONDS):
                await first.wait()

    async def close(self) -> None:
        """Disconnect."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        self._drop_link()

    async def call(self, payload: bytes, replies: int, patience: int = 0) -> list[Reply]:
        """Send commands and wait for their `replies` replies, none of them an error; `patience` as in `Link.request`.

        Raises:
            LinkFailure: no answer in time, or the channel is down.
            ServerError: Redis refuses.
        """
        if self._link is None or not self.up:
            raise LinkFailure("closed")
        started = time.perf_counter()
        try:
            answers = await self._link.request(payload, replies, patience)
        except LinkFailure as failure:
            self._metrics.failed(self.operation, failure.reason)
            raise
        error = _first_error(answers)
        if error is not None:
            # What is asked is always well-formed, so that the fault is Redis's: full, loading, read-only, locked.
            self._metrics.failed(self.operation, _word(error))
            self._trip(_word(error))
            raise error
        self._breaker.succeeded()
        self._metrics.round_trip(self.operation, time.perf_counter() - started)
        return answers

    def suspect(self, reason: str) -> None:
        """Use this channel no more until Redis has answered it again."""
        if self._breaker.closed:
            self._breaker.trip()
            self._tell(False, reason)
        self._sick.set()

    def distrust(self) -> None:
        """An answer was not one to what was asked: use this connection no more."""
        self._metrics.failed(self.operation, "protocol")
        self._trip("protocol")
        self._drop_link()

    def _trip(self, reason: str) -> None:
        self.suspect(reason)
        if reason == "silent":
            self._alarm.ring()

    def _fell_behind(self) -> None:
        """Count one for each period, however many requests were late in it."""
        now = time.monotonic()
        if now - self._behind_at < ANSWER_SECONDS:
            return
        self._behind_at = now
        self._breaker.fell_behind()
        if not self._breaker.closed:
            self._tell(False, "slow")
            self._sick.set()

    def _tell(self, up: bool, reason: str) -> None:
        """Say it once, when it changes."""
        if up == self._told:
            return
        self._told = up
        self._metrics.up(self.operation, up)
        if up:
            log.info("redis is up", operation=self.operation)
        else:
            log.warning("redis is away", operation=self.operation, reason=reason)

    async def _keep(self, first: asyncio.Event) -> None:
        """The background task: mend while down, look after it while up. Ends only by being cancelled."""
        while True:
            try:
                if self._breaker.closed:
                    await self._beat()
                else:
                    await self._mend()
                    first.set()
            except Exception:
                # A fault of this code must not leave the channel down for good without a word.
                log.exception("redis keeper", operation=self.operation)
                self._trip("fault")
                await asyncio.sleep(BEAT_SECONDS)

    async def _beat(self) -> None:
        self._sick.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(BEAT_SECONDS):
                await self._sick.wait()
        if self.up:
            with suppress(LinkFailure, ServerError):
                await self.call(self._probe, 1)
        elif self._breaker.closed:
            self._trip("lost")

    async def _mend(self) -> None:
        """Wait until a probe is due, then connect anew and see whether Redis does its work."""
        await asyncio.sleep(self._breaker.seconds_to_probe())
        if not self._breaker.begin_probe():
            return
        reason = "cancelled"
        try:
            reason = await self._reconnect()
        finally:
            self._breaker.end_probe(reason == "")
        if reason:
            self._metrics.failed("connect", reason)
            self._drop_link()
        self._tell(not reason, reason)

    async def _reconnect(self) -> str:
        """Why it did not work, in a word; empty when it did."""
        self._drop_link()
        try:
            link = await dial(self._address, self._resolver, self._tls, lambda: Link(self._trip, self._fell_behind))
        except TimeoutError:
            return "timeout"
        except ssl.SSLError:
            return "tls"
        except OSError:
            return "unreachable"
        self._link = link
        greeting, replies = self._greeting()
        try:
            answers = await link.request(greeting, replies)
        except LinkFailure as failure:
            return failure.reason
        error = _first_error(answers)
        return "" if error is None else _word(error)

    def _greeting(self) -> tuple[bytes, int]:
        """Who we are, which database, and a first try of the work itself; and how many replies that makes."""
        commands = [self._probe]
        if self._address.database:
            commands.insert(0, command(b"SELECT", b"%d" % self._address.database))
        if self._address.password is not None:
            words = [word.encode() for word in (self._address.username, self._address.password) if word is not None]
            commands.insert(0, command(b"AUTH", *words))
        return b"".join(commands), len(commands)

    def _drop_link(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None


def _first_error(replies: list[Reply]) -> ServerError | None:
    return next((reply for reply in replies if isinstance(reply, ServerError)), None)


def _word(error: ServerError) -> str:
    return f"server_{error.code.lower()}" if error.code in _KNOWN_CODES else "server_other"
