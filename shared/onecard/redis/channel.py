"""A self-healing connection to Redis for one kind of command.

Requests use a channel only while it is up; a background task finds out when a failed Redis is healthy again. So a
failing Redis costs only the requests in flight, and those at most `REDIS_ANSWER_MS`; later requests skip it.
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
"""Interval of the checks while Redis is up, so that an idle service notices its loss too."""
_CLOSE_SECONDS = 0.2

Item = TypeVar("Item")

log = logs.logger()


class SharedBreaker:
    """Marks all channels to one Redis as down when it falls silent, so that a request that uses several waits once."""

    def __init__(self) -> None:
        self._channels: list[RedisChannel] = []

    def register(self, channel: "RedisChannel") -> None:
        """Include `channel`."""
        self._channels.append(channel)

    def trip(self) -> None:
        """Mark all channels as down. A channel whose Redis is healthy after all is up again after its first probe."""
        for channel in self._channels:
            channel.mark_down("silent")


class RedisChannel:
    """One kind of command; each kind has its own connections and its own circuit breaker."""

    def __init__(
        self,
        operation: str,
        address: RedisAddress,
        metrics: RedisMetrics,
        *,
        probe: RedisCommand,
        shared_breaker: SharedBreaker | None = None,
    ) -> None:
        """Prepare the channel; `start` connects it.

        Args:
            operation: name of the kind of command, for metrics and logs.
            address: of Redis.
            metrics: of the channels.
            probe: a harmless command of this kind; its reply shows whether Redis is healthy.
            shared_breaker: of the process's channels to the same Redis; None if this is the only one.

        Raises:
            OSError: the certificates that the address names cannot be read.
        """
        self.operation = operation
        self._shared_breaker = shared_breaker or SharedBreaker()
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
        """Whether requests may use Redis."""
        return self._breaker.closed

    async def start(self) -> None:
        """Start connecting; return when the channel is up or the first attempt has failed."""
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
        with suppress(Exception):  # A server that hangs is not waited for.
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._client.close()

    async def call(self, *commands: RedisCommand) -> list[RedisReply]:
        """Send commands in one round trip.

        Args:
            commands: each a tuple of name and arguments.

        Returns:
            One reply for each command, as redis-py decodes it without command-specific parsing; no reply is an error.

        Raises:
            RedisUnavailable: no reply in time, the channel is down, or Redis replied with an error.
        """
        return await self._execute(self._commands, commands)

    async def mget(self, keys: Sequence[bytes]) -> list[RedisReply]:
        """Read values in one round trip.

        Args:
            keys: to read.

        Returns:
            bytes or None for each key, in order.

        Raises:
            RedisUnavailable: no reply in time, the channel is down, or Redis replied with an error.
        """
        return await self._execute(self._reads, keys)

    async def _execute(self, pipeline: AutoPipeline[Item, RedisReply], items: Sequence[Item]) -> list[RedisReply]:
        if not self.up:
            raise RedisUnavailable("closed")
        started = time.perf_counter()
        try:
            replies = await pipeline.execute(items)
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
        except RedisUnavailable as failure:
            self._metrics.failed(self.operation, failure.reason)
            raise
        except Exception as error:
            # Our commands are well-formed, so the fault is on Redis's side: full, loading, read-only, locked, gone.
            reason = error_reason(error, "lost")
            self._metrics.failed(self.operation, reason)
            self.mark_down(reason)
            raise RedisUnavailable(reason) from None
        self._breaker.record_success()
        self._metrics.observe_round_trip(self.operation, time.perf_counter() - started)
        return replies

    def mark_down(self, reason: str) -> None:
        """Stop using this channel until Redis has passed a probe.

        Args:
            reason: a label for metrics and logs; after "silent" the first probe is due at once.
        """
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
            return  # Count one per period, however many batches timed out in it.
        self._last_slow_at = now
        self._breaker.record_slow_reply()
        if not self._breaker.closed:
            self._report(False, reason)
            self._tripped.set()

    def _report(self, up: bool, reason: str) -> None:
        """Log and export the state when it changes."""
        if up == self._reported_up:
            return
        self._reported_up = up
        self._metrics.set_available(self.operation, up)
        if up:
            log.info("redis is up", operation=self.operation)
        else:
            log.warning("redis is away", operation=self.operation, reason=reason)

    async def _monitor(self, first: asyncio.Event) -> None:
        """Background task: reconnect while down, check while up. Ends only when cancelled."""
        while True:
            try:
                if self._breaker.closed:
                    await self._heartbeat()
                else:
                    await self._reconnect()
                    first.set()
            except Exception:
                # A bug in this code must not leave the channel down silently.
                log.exception("redis monitor failed", operation=self.operation)
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
        """Wait until a probe is due, run it and report the outcome."""
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
        """Probe Redis. Returns why it is not healthy, in a word, or an empty string."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                await self._client.resolve()
                await self._client.ping_all()
                # The first reply may take as long as connecting; a second one must come within a request's timeout.
                # A slow reply closes no connection, so after a mere pause the old connections are used again.
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
