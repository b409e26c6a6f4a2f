"""Recently answered request bodies: under overload they may pass, because the cache can answer them."""

from collections import OrderedDict
from hashlib import blake2b

MAX_BODIES = 10_000
"""Bodies remembered: about 2 MB of memory."""


class RecentBodies:
    """Digests of the last bodies; adding one again makes it the newest. Pure; used by one thread."""

    def __init__(self, max_bodies: int = MAX_BODIES) -> None:
        """Start empty.

        Args:
            max_bodies: older ones are forgotten.
        """
        self._max_bodies = max_bodies
        self._digests: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._digests)

    def __contains__(self, body: bytes) -> bool:
        """Whether this body was answered recently."""
        return _digest(body) in self._digests

    def add(self, body: bytes) -> None:
        """Remember a body that has been answered."""
        digest = _digest(body)
        self._digests[digest] = None
        self._digests.move_to_end(digest)
        if len(self._digests) > self._max_bodies:
            self._digests.popitem(last=False)


def _digest(body: bytes) -> bytes:
    return blake2b(body, digest_size=16).digest()
