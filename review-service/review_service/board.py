"""Where the worker writes how far it is, and the service reads it: one hash in Redis. Done twice, it reads the same."""

from collections.abc import Iterable
from typing import cast, get_args

from onecard.cache.channel import Channel
from onecard.cache.link import LinkFailure
from onecard.cache.resp import Reply, ServerError, command
from review_service.precompute import Errand, Outcome, Round

_KEY = b"onecard:precompute:round"
_STARTED = b"started_at"
_KEEP = command(b"EXPIRE", _KEY, b"86400")


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
        fields = [_STARTED, b"%d" % now]
        for errand in errands:
            fields += (errand.name.encode(), b"waiting")
        await self._ask(command(b"DEL", _KEY) + command(b"HSET", _KEY, *fields) + _KEEP, 3)

    async def done(self, errand: Errand, outcome: Outcome) -> None:
        """What has become of one."""
        self._unheard[errand.name] = outcome
        await self._tell()

    async def read(self) -> Round | None:
        """The latest round; None before the first one."""
        await self._tell()
        match await self._ask(command(b"HGETALL", _KEY), 1):
            case [list(found)]:
                words = [word.decode() for word in found if isinstance(word, bytes)]
                fields = dict(zip(words[::2], words[1::2], strict=True))
                started = fields.pop(_STARTED.decode(), None)
                outcomes = {name: cast(Outcome, word) for name, word in fields.items() if word in get_args(Outcome)}
                return None if started is None else Round(int(started), outcomes)
        return None

    async def _tell(self) -> None:
        told = dict(self._unheard)
        words = [word.encode() for pair in told.items() for word in pair]
        if words and await self._ask(command(b"HSET", _KEY, *words) + _KEEP, 2):
            self._unheard = {name: outcome for name, outcome in self._unheard.items() if told.get(name) != outcome}

    async def _ask(self, payload: bytes, replies: int) -> list[Reply]:
        try:
            return await self._channel.call(payload, replies)
        except (LinkFailure, ServerError):
            return []
