"""Where the worker writes how far it is, and the service reads it: one hash in Redis. Done twice, it reads the same."""

from collections.abc import Iterable
from typing import cast, get_args

from onecard.redis.autopipeline import RedisUnavailable
from onecard.redis.channel import RedisChannel
from onecard.redis.client import RedisCommand, RedisReply
from review_service.precompute.refresh_jobs import JobOutcome, RefreshJob, RefreshRound

_ROUND_KEY = "onecard:precompute:round"
_STARTED_FIELD = "started_at"
_EXPIRE_COMMAND = ("EXPIRE", _ROUND_KEY, 86400)


class RoundStatus:
    """The latest round. While Redis is away it is empty. What has become of an errand is told with the next one, or at
    the next look, if Redis did not hear of it: a round with an errand that seems to wait would hold up the next."""

    def __init__(self, channel: RedisChannel) -> None:
        """`channel` is somebody else's to open and close."""
        self._channel = channel
        self._unsent: dict[str, JobOutcome] = {}
        """By the errand's name."""

    async def start(self, errands: Iterable[RefreshJob], now: float) -> None:
        """A round begins, and the one before is forgotten."""
        self._unsent.clear()
        fields: list[str | int] = [_STARTED_FIELD, int(now)]
        for errand in errands:
            fields += (errand.name, "waiting")
        await self._execute(("DEL", _ROUND_KEY), ("HSET", _ROUND_KEY, *fields), _EXPIRE_COMMAND)

    async def record(self, errand: RefreshJob, outcome: JobOutcome) -> None:
        """What has become of one."""
        self._unsent[errand.name] = outcome
        await self._flush()

    async def read(self) -> RefreshRound | None:
        """The latest round; None before the first one."""
        await self._flush()
        match await self._execute(("HGETALL", _ROUND_KEY)):
            case [list(found)]:
                words = [word.decode() for word in found if isinstance(word, bytes)]
                fields = dict(zip(words[::2], words[1::2], strict=True))
                started = fields.pop(_STARTED_FIELD, None)
                outcomes = {
                    name: cast(JobOutcome, word) for name, word in fields.items() if word in get_args(JobOutcome)
                }
                return None if started is None else RefreshRound(int(started), outcomes)
        return None

    async def _flush(self) -> None:
        told = dict(self._unsent)
        words = [word for pair in told.items() for word in pair]
        if words and await self._execute(("HSET", _ROUND_KEY, *words), _EXPIRE_COMMAND):
            self._unsent = {name: outcome for name, outcome in self._unsent.items() if told.get(name) != outcome}

    async def _execute(self, *commands: RedisCommand) -> list[RedisReply]:
        try:
            return await self._channel.call(*commands)
        except RedisUnavailable:
            return []
