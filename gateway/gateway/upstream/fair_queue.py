"""A queue that serves callers in turn, however many requests each of them has in it. Pure.

Serving callers round robin is from Nagle (RFC 970). That a full queue drops from the longest line is from McKenney's
Stochastic Fairness Queueing (1990). So the many requests of one caller neither delay nor displace the few of another.
"""

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """A line for each caller, and a limit on all lines together."""

    def __init__(self, capacity: int) -> None:
        """Start empty.

        Args:
            capacity: items in all lines together.
        """
        self._capacity = capacity
        self._queues: dict[str, deque[T]] = {}
        """By caller, in the order in which they are served; no line is empty."""

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def turns_of(self, caller: str) -> int:
        """How many items are served until all that a caller has in its line now are, if every line stays as it is.

        Args:
            caller: whose items.

        Returns:
            The length of its line for each caller who takes turns with it; at least 1.
        """
        return max(1, len(self._queues.get(caller, ()))) * max(1, len(self._queues.keys() | {caller}))

    def put(self, caller: str, item: T) -> T | None:
        """Add an item to its caller's line.

        Args:
            caller: whose item it is.
            item: what waits.

        Returns:
            The item that is dropped because the queue is full: the newest one of the longest line, which may be `item`
            itself.
            None if the queue is not full.
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
        """Remove the oldest item of the next caller, who then becomes the last in the order.

        Returns:
            The item.

        Raises:
            IndexError: the queue is empty.
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
        """Remove an item that no longer waits. It need not be in the queue.

        Args:
            caller: whose item it is.
            item: what to remove.
        """
        line = self._queues.get(caller)
        if line is None or item not in line:
            return
        line.remove(item)
        if not line:
            del self._queues[caller]
