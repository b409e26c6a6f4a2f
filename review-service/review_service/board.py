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
    """The latest round. While Redis is away it is empty. What has become of an errand is told with the next one, or at
    the next look, if Redis did not hear of it: a round with an errand that seems to wait would hold up the next."""

    def __init__(self, channel: Channel) -> None:
        """`channel` is somebody else's to open and close."""
        self._channel = channel
        self._unheard: dict[str, Outcome] = {}
        """By the errand's name."""

    async def begin(self, errands: Iterable[Errand], now: float) -> None:
        """A round begins, and the one before is forgotten."""
        self._unheard.clear()
        fields: list[str | int] = [_STARTED, int(now)]
        for errand in errands:
            fields += (errand.name, "waiting")
        await self._ask(("DEL", _KEY), ("HSET", _KEY, *fields), _KEEP)

    async def done(self, errand: Errand, outcome: Outcome) -> None:
        """What has become of one."""
        self._unheard[errand.name] = outcome
        await self._tell()

    async def read(self) -> Round | None:
        """The latest round; None before the first one."""
        await self._tell()
        match await self._ask(("HGETALL", _KEY)):
            case [list(found)]:
                words = [word.decode() for word in found if isinstance(word, bytes)]
                fields = dict(zip(words[::2], words[1::2], strict=True))
                started = fields.pop(_STARTED, None)
                outcomes = {name: cast(Outcome, word) for name, word in fields.items() if word in get_args(Outcome)}
                return None if started is None else Round(int(started), outcomes)
        return None

    async def _tell(self) -> None:
        told = dict(self._unheard)
        words = [word for pair in told.items() for word in pair]
        if words and await self._ask(("HSET", _KEY, *words), _KEEP):
            self._unheard = {name: outcome for name, outcome in self._unheard.items() if told.get(name) != outcome}

    async def _ask(self, *commands: Command) -> list[Reply]:
        try:
            return await self._channel.call(*commands)
        except NoAnswer:
            return []
