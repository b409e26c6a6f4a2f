"""Request bodies that have been answered not long ago, so that under overload they are let through to the cache."""

from collections import OrderedDict
from hashlib import blake2b

MAX_BODIES = 10_000
"""Bodies remembered: about 2 MB of memory."""


class RecentBodies:
    """The digests of the last `most` bodies; a use counts as news. Pure; owned by one thread."""

    def __init__(self, most: int = MAX_BODIES) -> None:
        self._max_bodies = most
        self._digests: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._digests)

    def __contains__(self, body: bytes) -> bool:
        """It has been answered, and not so many others since."""
        return _digest(body) in self._digests

    def add(self, body: bytes) -> None:
        """It is answered now."""
        digest = _digest(body)
        self._digests[digest] = None
        self._digests.move_to_end(digest)
        if len(self._digests) > self._max_bodies:
            self._digests.popitem(last=False)


def _digest(body: bytes) -> bytes:
    return blake2b(body, digest_size=16).digest()
