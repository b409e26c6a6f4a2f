"""Who is next where there is not enough for all: one of each caller in turn, however many requests each has. Pure.

Round robin over callers is Nagle's (RFC 970); that a full queue takes room from the longest line is from McKenney's
Stochastic Fairness Queueing (1990). So one caller's flood neither delays nor crowds out the few requests of another.
"""

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """A line for each caller, and a bound on all of them together."""

    def __init__(self, room: int) -> None:
        self._capacity = room
        self._queues: dict[str, deque[T]] = {}
        """None is empty. The first one's turn comes next."""

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def put(self, caller: str, item: T) -> T | None:
        """Let `item` wait.

        Returns:
            What has no room any more: the newest of the longest line, which may be `item` itself. None if all have.
        """
        self._queues.setdefault(caller, deque()).append(item)
        if len(self) <= self._capacity:
            return None
        longest = max(self._queues, key=lambda name: (len(self._queues[name]), name == caller))
        newest = self._queues[longest].pop()
        if not self._queues[longest]:
            del self._queues[longest]
        return newest

    def get(self) -> T:
        """The oldest of the caller whose turn it is, who is then last.

        Raises:
            IndexError: nobody waits.
        """
        if not self._queues:
            raise IndexError("nobody waits")
        caller = next(iter(self._queues))
        line = self._queues.pop(caller)
        item = line.popleft()
        if line:
            self._queues[caller] = line
        return item

    def remove(self, caller: str, item: T) -> None:
        """`item` waits no longer. It need not be there."""
        line = self._queues.get(caller)
        if line is None or item not in line:
            return
        line.remove(item)
        if not line:
            del self._queues[caller]
