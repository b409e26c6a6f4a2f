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
from onecard.redis.address import RedisAddress
from onecard.redis.autopipeline import AutoPipeline, RedisUnavailable
from onecard.redis.circuit_breaker import CircuitBreaker
from onecard.redis.client import CONNECT_TIMEOUT_SECONDS, RedisClient, RedisCommand, RedisReply, error_reason
from onecard.redis.metrics import RedisMetrics

HEARTBEAT_SECONDS = 1.0
"""Between two looks at a Redis that is up, so that a quiet service learns of its loss, too."""
_CLOSE_SECONDS = 0.2

Item = TypeVar("Item")

log = logs.logger()


class SharedBreaker:
    """Tells all channels to one Redis when it falls silent, so that a request that uses several waits once."""

    def __init__(self) -> None:
        self._channels: list[RedisChannel] = []

    def register(self, channel: "RedisChannel") -> None:
        """Tell `channel` too, from now on."""
        self._channels.append(channel)

    def trip(self) -> None:
        """Redis is silent. A channel that finds it well after all is up again when its first probe has passed."""
        for channel in self._channels:
            channel.mark_down("silent")


class RedisChannel:
    """One sort of command: each has its own connections and its own health."""

    def __init__(
        self,
        operation: str,
        address: RedisAddress,
        metrics: RedisMetrics,
        *,
        probe: RedisCommand,
        alarm: SharedBreaker | None = None,
    ) -> None:
        """Connect in `start`. `probe` is a harmless command of that sort; its answer says whether Redis is well.

        Raises:
            OSError: the certificates that the address names cannot be read.
        """
        self.operation = operation
        self._shared_breaker = alarm or SharedBreaker()
        self._shared_breaker.register(self)
        self._probe_command = probe
        self._metrics = metrics
        self._timeout_seconds = address.timeout_seconds
        self._client = RedisClient(address)
        self._commands = AutoPipeline(self._client.execute, self._timeout_seconds, self._on_timeout)
        self._reads = AutoPipeline(self._client.mget, self._timeout_seconds, self._on_timeout)
        self._breaker = CircuitBreaker(time.monotonic)
        self._tripped = asyncio.Event()
        self._monitor_task: asyncio.Task[None] | None = None
        self._last_slow_at = 0.0
        self._reported_up: bool | None = None

    @property
    def up(self) -> bool:
        """Redis can be used."""
        return self._breaker.closed

    async def start(self) -> None:
        """Begin to connect; return when it is up, or the first attempt has failed."""
        first = asyncio.Event()
        self._monitor_task = asyncio.create_task(self._monitor(first), name=f"redis-{self.operation}")
        with suppress(TimeoutError):
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS + 2 * self._timeout_seconds):
                await first.wait()

    async def close(self) -> None:
        """Disconnect."""
        if self._monitor_task is not None:
            self._monitor_task.cancel()
            await asyncio.wait([self._monitor_task])
        await asyncio.gather(self._commands.close(), self._reads.close())
        with suppress(Exception):  # Of a server that hangs: what it has not read is not waited for.
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._client.close()

    async def call(self, *commands: RedisCommand) -> list[RedisReply]:
        """The replies to `commands`, as redis-py gives them without reading anything into them; none is an error.

        Raises:
            NoAnswer: not in time, the channel is down, or Redis refuses.
        """
        return await self._execute(self._commands, commands)

    async def mget(self, keys: Sequence[bytes]) -> list[RedisReply]:
        """What lies under each key: bytes, or None.

        Raises:
            NoAnswer: as in `call`.
        """
        return await self._execute(self._reads, keys)

    async def _execute(self, batches: AutoPipeline[Item, RedisReply], items: Sequence[Item]) -> list[RedisReply]:
        if not self.up:
            raise RedisUnavailable("closed")
        started = time.perf_counter()
        try:
            answers = await batches.execute(items)
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
        except RedisUnavailable as failure:
            self._metrics.failed(self.operation, failure.reason)
            raise
        except Exception as error:
            # What is asked is always well-formed, so that the fault is Redis's: full, loading, read-only, locked, gone.
            reason = error_reason(error, "lost")
            self._metrics.failed(self.operation, reason)
            self.mark_down(reason)
            raise RedisUnavailable(reason) from None
        self._breaker.record_success()
        self._metrics.observe_round_trip(self.operation, time.perf_counter() - started)
        return answers

    def mark_down(self, reason: str) -> None:
        """Use this channel no more until Redis has answered it again."""
        if self._breaker.closed:
            self._breaker.trip(pausing=reason == "silent")
            self._report(False, reason)
        self._tripped.set()

    def _on_timeout(self, reason: str) -> None:
        if reason == "silent":
            self.mark_down(reason)
            self._shared_breaker.trip()
            return
        now = time.monotonic()
        if now - self._last_slow_at < self._timeout_seconds:
            return  # One for each period, however many batches were late in it.
        self._last_slow_at = now
        self._breaker.record_slow_reply()
        if not self._breaker.closed:
            self._report(False, reason)
            self._tripped.set()

    def _report(self, up: bool, reason: str) -> None:
        """Say it once, when it changes."""
        if up == self._reported_up:
            return
        self._reported_up = up
        self._metrics.set_available(self.operation, up)
        if up:
            log.info("redis is up", operation=self.operation)
        else:
            log.warning("redis is away", operation=self.operation, reason=reason)

    async def _monitor(self, first: asyncio.Event) -> None:
        """The background task: mend while down, look after it while up. Ends only by being cancelled."""
        while True:
            try:
                if self._breaker.closed:
                    await self._heartbeat()
                else:
                    await self._reconnect()
                    first.set()
            except Exception:
                # A fault of this code must not leave the channel down for good without a word.
                log.exception("redis keeper", operation=self.operation)
                self.mark_down("fault")
                await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _heartbeat(self) -> None:
        self._tripped.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(HEARTBEAT_SECONDS):
                await self._tripped.wait()
        with suppress(RedisUnavailable):
            await self.call(self._probe_command)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                await self._client.ping_all()
        except Exception as error:
            self.mark_down(error_reason(error, "lost"))

    async def _reconnect(self) -> None:
        """Wait until a probe is due, and see whether Redis does its work."""
        await asyncio.sleep(self._breaker.seconds_to_probe())
        if not self._breaker.begin_probe():
            return
        reason = "cancelled"
        try:
            reason = await self._run_probe()
        finally:
            self._breaker.end_probe(reason == "")
        if reason:
            self._metrics.failed("connect", reason)
        self._report(not reason, reason)

    async def _run_probe(self) -> str:
        """Why Redis does not do its work, in a word; empty when it does.

        The first answer may take as long as connecting does; then it has to be as quick as requests need it. A slow
        one costs no connection, and one that had only paused is found well over the connections that it had.
        """
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                await self._client.resolve()
                await self._client.ping_all()
                for _ in range(2):
                    started = time.monotonic()
                    replies = await self._client.execute([self._probe_command])
                    if isinstance(replies[0], Exception):
                        raise replies[0]
                    if time.monotonic() - started <= self._timeout_seconds:
                        return ""
            return "slow"
        except Exception as error:
            with suppress(Exception):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._client.disconnect_idle()
            return error_reason(error, "unreachable")
