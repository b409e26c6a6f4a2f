"""A way to Redis that mends itself, for one sort of command.

Requests use a channel only while it is up. Finding out whether Redis is well again is the work of one background task.
So what a sick Redis costs a request is the wait for an answer that does not come, `REDIS_ANSWER_MS`, for those that are
under way when it falls sick; later ones pass.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TypeVar

from onecard import logs
from onecard.cache.address import Address
from onecard.cache.batches import Batches, NoAnswer
from onecard.cache.breaker import Breaker
from onecard.cache.client import CONNECT_SECONDS, Client, Command, Reply, word
from onecard.cache.metrics import RedisMetrics

BEAT_SECONDS = 1.0
"""Between two looks at a Redis that is up, so that a quiet service learns of its loss, too."""
_CLOSE_SECONDS = 0.2

Item = TypeVar("Item")

log = logs.logger()


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
    """One sort of command: each has its own connections and its own health."""

    def __init__(
        self, operation: str, address: Address, metrics: RedisMetrics, *, probe: Command, alarm: Alarm | None = None
    ) -> None:
        """Connect in `start`. `probe` is a harmless command of that sort; its answer says whether Redis is well.

        Raises:
            OSError: the certificates that the address names cannot be read.
        """
        self.operation = operation
        self._alarm = alarm or Alarm()
        self._alarm.connect(self)
        self._probe = probe
        self._metrics = metrics
        self._seconds = address.answer_seconds
        self._client = Client(address)
        self._commands = Batches(self._client.ask, self._seconds, self._late)
        self._keys = Batches(self._client.values, self._seconds, self._late)
        self._breaker = Breaker(time.monotonic)
        self._sick = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._behind_at = 0.0
        self._told: bool | None = None

    @property
    def up(self) -> bool:
        """Redis can be used."""
        return self._breaker.closed

    async def start(self) -> None:
        """Begin to connect; return when it is up, or the first attempt has failed."""
        first = asyncio.Event()
        self._keeper = asyncio.create_task(self._keep(first), name=f"redis-{self.operation}")
        with suppress(TimeoutError):
            async with asyncio.timeout(CONNECT_SECONDS + 2 * self._seconds):
                await first.wait()

    async def close(self) -> None:
        """Disconnect."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        await asyncio.gather(self._commands.close(), self._keys.close())
        with suppress(Exception):  # Of a server that hangs: what it has not read is not waited for.
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._client.close()

    async def call(self, *commands: Command) -> list[Reply]:
        """The replies to `commands`, as redis-py gives them without reading anything into them; none is an error.

        Raises:
            NoAnswer: not in time, the channel is down, or Redis refuses.
        """
        return await self._answered(self._commands, commands)

    async def values(self, keys: Sequence[bytes]) -> list[Reply]:
        """What lies under each key: bytes, or None.

        Raises:
            NoAnswer: as in `call`.
        """
        return await self._answered(self._keys, keys)

    async def _answered(self, batches: Batches[Item, Reply], items: Sequence[Item]) -> list[Reply]:
        if not self.up:
            raise NoAnswer("closed")
        started = time.perf_counter()
        try:
            answers = await batches.ask(items)
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
        except NoAnswer as failure:
            self._metrics.failed(self.operation, failure.reason)
            raise
        except Exception as error:
            # What is asked is always well-formed, so that the fault is Redis's: full, loading, read-only, locked, gone.
            reason = word(error, "lost")
            self._metrics.failed(self.operation, reason)
            self.suspect(reason)
            raise NoAnswer(reason) from None
        self._breaker.succeeded()
        self._metrics.round_trip(self.operation, time.perf_counter() - started)
        return answers

    def suspect(self, reason: str) -> None:
        """Use this channel no more until Redis has answered it again."""
        if self._breaker.closed:
            self._breaker.trip(pausing=reason == "silent")
            self._tell(False, reason)
        self._sick.set()

    def _late(self, reason: str) -> None:
        if reason == "silent":
            self.suspect(reason)
            self._alarm.ring()
            return
        now = time.monotonic()
        if now - self._behind_at < self._seconds:
            return  # One for each period, however many batches were late in it.
        self._behind_at = now
        self._breaker.fell_behind()
        if not self._breaker.closed:
            self._tell(False, reason)
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
                self.suspect("fault")
                await asyncio.sleep(BEAT_SECONDS)

    async def _beat(self) -> None:
        self._sick.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(BEAT_SECONDS):
                await self._sick.wait()
        with suppress(NoAnswer):
            await self.call(self._probe)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._client.reach()
        except Exception as error:
            self.suspect(word(error, "lost"))

    async def _mend(self) -> None:
        """Wait until a probe is due, and see whether Redis does its work."""
        await asyncio.sleep(self._breaker.seconds_to_probe())
        if not self._breaker.begin_probe():
            return
        reason = "cancelled"
        try:
            reason = await self._probed()
        finally:
            self._breaker.end_probe(reason == "")
        if reason:
            self._metrics.failed("connect", reason)
        self._tell(not reason, reason)

    async def _probed(self) -> str:
        """Why Redis does not do its work, in a word; empty when it does.

        The first answer may take as long as connecting does; then it has to be as quick as requests need it. A slow
        one costs no connection, and one that had only paused is found well over the connections that it had.
        """
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._client.find()
                await self._client.reach()
                for _ in range(2):
                    started = time.monotonic()
                    replies = await self._client.ask([self._probe])
                    if isinstance(replies[0], Exception):
                        raise replies[0]
                    if time.monotonic() - started <= self._seconds:
                        return ""
            return "slow"
        except Exception as error:
            with suppress(Exception):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._client.drop()
            return word(error, "unreachable")
