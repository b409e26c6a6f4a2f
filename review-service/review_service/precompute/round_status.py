"""The status of the latest round, in a hash in Redis. The worker writes it and the service reads it.

Writing the same outcome twice does not change it, so a task that is delivered twice does no harm.
"""

from collections.abc import Iterable
from typing import cast, get_args

from onecard.redis.autopipeline import RedisUnavailable
from onecard.redis.channel import RedisChannel
from onecard.redis.client import RedisCommand, RedisReply
from review_service.precompute.refresh_jobs import JobOutcome, RefreshJob, RefreshRound

_ROUND_KEY = "onecard:precompute:round"
_STARTED_FIELD = "started_at"
_SENT_FIELD = "sent"
_EXPIRE_COMMAND = ("EXPIRE", _ROUND_KEY, 86400)


class RoundStatus:
    """The latest round.

    If Redis is unreachable, an outcome is kept in memory and sent with the next one, or before the next read. Otherwise
    the job would seem to be waiting, and a round with waiting jobs delays the next round.
    """

    def __init__(self, channel: RedisChannel) -> None:
        """The caller opens and closes `channel`."""
        self._channel = channel
        self._unsent: dict[str, str] = {}
        """By the job's name; and the field that says that all jobs are on the queue."""

    async def start(self, jobs: Iterable[RefreshJob], now: float) -> None:
        """Start a round and replace the status of the last one.

        Args:
            jobs: Jobs of the round; all are set to `waiting`.
            now: Unix time in seconds.
        """
        self._unsent.clear()
        fields: list[str | int] = [_STARTED_FIELD, int(now)]
        for job in jobs:
            fields += (job.name, "waiting")
        await self._execute(("DEL", _ROUND_KEY), ("HSET", _ROUND_KEY, *fields), _EXPIRE_COMMAND)

    async def record_sent(self, left: Iterable[RefreshJob]) -> None:
        """Record that the jobs of the round are on the queue.

        Args:
            left: Jobs that could not be sent. They are paused, and the next round does not wait for this one.
        """
        self._unsent |= {job.name: "paused" for job in left} or {_SENT_FIELD: "all"}
        await self._flush()

    async def record(self, job: RefreshJob, outcome: JobOutcome) -> None:
        """Record the outcome of a job."""
        self._unsent[job.name] = outcome
        await self._flush()

    async def read(self) -> RefreshRound | None:
        """Read the status of the latest round.

        Returns:
            The round; None before the first round, after a day without one, or while Redis is unreachable.
        """
        await self._flush()
        match await self._execute(("HGETALL", _ROUND_KEY)):
            case [list(reply)]:
                words = [word.decode() for word in reply if isinstance(word, bytes)]
                fields = dict(zip(words[::2], words[1::2], strict=True))
                started = fields.pop(_STARTED_FIELD, None)
                outcomes = {
                    name: cast(JobOutcome, word) for name, word in fields.items() if word in get_args(JobOutcome)
                }
                return None if started is None else RefreshRound(int(started), outcomes, _SENT_FIELD in fields)
        return None

    async def _flush(self) -> None:
        sent = dict(self._unsent)
        words = [word for pair in sent.items() for word in pair]
        if words and await self._execute(("HSET", _ROUND_KEY, *words), _EXPIRE_COMMAND):
            # Outcomes that were recorded while the command ran stay unsent.
            self._unsent = {name: outcome for name, outcome in self._unsent.items() if sent.get(name) != outcome}

    async def _execute(self, *commands: RedisCommand) -> list[RedisReply]:
        try:
            return await self._channel.call(*commands)
        except RedisUnavailable:
            return []
