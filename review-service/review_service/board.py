"""Where the worker writes how far it is, and the service reads it: one hash in Redis. Done twice, it reads the same."""

from collections.abc import Iterable
from typing import cast, get_args

from onecard.cache.batches import NoAnswer
from onecard.cache.channel import Channel
from onecard.cache.client import Command, Reply
from review_service.precompute import Errand, Outcome, Round

_KEY = "onecard:precompute:round"
_STARTED = "started_at"
_KEEP = ("EXPIRE", _KEY, 86400)


class Board:
    """The latest round. While Redis is away it is empty, and what is written to it is lost."""

    def __init__(self, channel: Channel) -> None:
        """`channel` is somebody else's to open and close."""
        self._channel = channel

    async def begin(self, errands: Iterable[Errand], now: float) -> None:
        """A round begins, and the one before is forgotten."""
        fields: list[str | int] = [_STARTED, int(now)]
        for errand in errands:
            fields += (errand.name, "waiting")
        await self._ask(("DEL", _KEY), ("HSET", _KEY, *fields), _KEEP)

    async def done(self, errand: Errand, outcome: Outcome) -> None:
        """What has become of one."""
        await self._ask(("HSET", _KEY, errand.name, outcome), _KEEP)

    async def read(self) -> Round | None:
        """The latest round; None before the first one."""
        match await self._ask(("HGETALL", _KEY)):
            case [list(found)]:
                words = [word.decode() for word in found if isinstance(word, bytes)]
                fields = dict(zip(words[::2], words[1::2], strict=True))
                started = fields.pop(_STARTED, None)
                outcomes = {name: cast(Outcome, word) for name, word in fields.items() if word in get_args(Outcome)}
                return None if started is None else Round(int(started), outcomes)
        return None

    async def _ask(self, *commands: Command) -> list[Reply]:
        try:
            return await self._channel.call(*commands)
        except NoAnswer:
            return []
