"""A semaphore in bytes for the buffers of a process: requests for more wait, and are refused after a while."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import Literal, NamedTuple

from onecard.errors import Unavailable

ACQUIRE_TIMEOUT_SECONDS = 5.0
"""How long a request waits for buffer space before it is refused."""
RETRY_AFTER_SECONDS = 2.0
SMALL_BYTES = 64 * 1024
"""The beginning of a body, which it shares with short ones: what is longer may be held for as long as its reader or
its sender likes."""

BufferKind = Literal["answer", "small body", "long answer", "body"]
MAX_USED_SHARE: dict[BufferKind, float] = {"answer": 1.0, "small body": 7 / 8, "long answer": 3 / 4, "body": 1 / 2}
"""How full the buffers may become by each kind, in the order in which waiters are served. Long answers and the rest of
long bodies are held by those who read or send slowly, so they leave space to what is short."""

LONG_KINDS: frozenset[BufferKind] = frozenset({"long answer", "body"})


class _Waiter(NamedTuple):
    granted: "asyncio.Future[None]"
    size: int
    caller: str


class BufferSemaphore:
    """Buffer space shared by all requests."""

    def __init__(
        self, max_bytes: int, on_refused: Callable[[], None] = lambda: None, *, min_share_bytes: int | None = None
    ) -> None:
        """Start with nothing in use.

        Args:
            max_bytes: space for bodies and responses together.
            on_refused: called for each refusal.
            min_share_bytes: a caller gets more of what is long only while it leaves as much space to the others, or
                holds no more than this. None: callers do not leave each other space.
        """
        self._capacity_bytes = {kind: int(max_bytes * share) for kind, share in MAX_USED_SHARE.items()}
        self._on_refused = on_refused
        self._min_share_bytes = min_share_bytes
        self._waiters: dict[BufferKind, deque[_Waiter]] = {kind: deque() for kind in MAX_USED_SHARE}
        """The oldest first."""
        self._held_by: Counter[str] = Counter()
        """Bytes by caller, for those that have any."""
        self.used_bytes = 0
        self._is_granting = False
        self._grants_again = False

    def lease(self, caller: str = "") -> "BufferLease":
        """A lease without any bytes yet.

        Args:
            caller: whose bytes they will be; empty if that is unknown.

        Returns:
            The lease.
        """
        return BufferLease(self, caller)

    async def acquire(self, count: int, kind: BufferKind, caller: str = "") -> None:
        """Take space now, or wait for it, each caller's requests in their order.

        Args:
            count: bytes.
            kind: what they are for.
            caller: whose they are.

        Raises:
            Unavailable: there was no space in time.
        """
        line = self._waiters[kind]
        if not line and self._has_space(count, kind) and self._leaves_enough(count, kind, caller):
            self._take(count, caller)
            return
        waiter = _Waiter(asyncio.get_running_loop().create_future(), count, caller)
        line.append(waiter)
        self._grant()  # Those in the line may wait only because they hold too much themselves.
        try:
            async with asyncio.timeout(ACQUIRE_TIMEOUT_SECONDS):
                await waiter.granted
        except BaseException as error:
            # It was granted at the very moment at which the wait ended.
            granted_too_late = waiter.granted.done() and not waiter.granted.cancelled()
            if waiter in line:
                line.remove(waiter)
            self.release(count if granted_too_late else 0, caller)  # In any case, the next waiter may fit now.
            if not isinstance(error, TimeoutError):
                raise
            self._on_refused()
            message = "Too much is being sent or read slowly just now, and there is no room for more. Try again soon."
            raise Unavailable(message, retry_after=RETRY_AFTER_SECONDS) from None

    def release(self, count: int, caller: str = "") -> None:
        """Give space back, and grant it to waiters that fit, in the order of `MAX_USED_SHARE`.

        Args:
            count: bytes.
            caller: whose they were.
        """
        self._take(-count, caller)
        self._grant()

    def move(self, count: int, caller: str, new_caller: str) -> None:
        """Count bytes as another caller's.

        Args:
            count: bytes.
            caller: whose they were.
            new_caller: whose they are.
        """
        self._take(-count, caller)
        self._take(count, new_caller)
        self._grant()

    def _grant(self) -> None:
        """Grant space to waiters. A garbage collection inside may close a lease, which calls this again."""
        self._grants_again = True
        if self._is_granting:
            return
        self._is_granting = True
        try:
            while self._grants_again:
                self._grants_again = False
                for kind, line in self._waiters.items():
                    self._grant_to(line, kind)
        finally:
            self._is_granting = False

    def _grant_to(self, line: deque[_Waiter], kind: BufferKind) -> None:
        """Grant space to the oldest waiters. Callers who hold too much are passed over."""
        granted, passed_over = list[_Waiter](), set[str]()
        for waiter in line:
            if waiter.granted.done() or waiter.caller in passed_over:
                continue
            if not self._leaves_enough(waiter.size, kind, waiter.caller):
                passed_over.add(waiter.caller)
            elif self._has_space(waiter.size, kind):
                self._take(waiter.size, waiter.caller)
                granted.append(waiter)
            else:
                break
        for waiter in granted:
            line.remove(waiter)
            waiter.granted.set_result(None)

    def _has_space(self, count: int, kind: BufferKind) -> bool:
        return self.used_bytes + count <= self._capacity_bytes[kind]

    def _leaves_enough(self, count: int, kind: BufferKind, caller: str) -> bool:
        """Whether the caller would hold no more than it leaves to the others, or than its least share."""
        if self._min_share_bytes is None or not caller or kind not in LONG_KINDS:
            return True
        left_bytes = self._capacity_bytes[kind] - self.used_bytes - count
        return self._held_by[caller] + count <= max(left_bytes, self._min_share_bytes)

    def _take(self, count: int, caller: str) -> None:
        self.used_bytes += count
        self._held_by[caller] += count
        if not self._held_by[caller]:
            del self._held_by[caller]


class BufferLease:
    """Space held for one request; given back when the lease is closed or garbage-collected."""

    def __init__(self, semaphore: BufferSemaphore, caller: str = "") -> None:
        """Start with nothing.

        Args:
            semaphore: where the space comes from.
            caller: whose it is; empty if that is unknown.
        """
        self._semaphore = semaphore
        self._caller = caller
        self._bytes = 0
        self._open = True

    def charge_to(self, caller: str) -> None:
        """Count the space as a caller's, once it is known whose request it is, and while nothing is being taken.

        Args:
            caller: its name.
        """
        self._semaphore.move(self._bytes, self._caller, caller)
        self._caller = caller

    async def acquire(self, count: int, kind: BufferKind = "answer") -> None:
        """Take more space.

        Args:
            count: bytes.
            kind: what they are for.

        Raises:
            Unavailable: there was no space in time.
        """
        await self._semaphore.acquire(count, kind, self._caller)
        if self._open:
            self._bytes += count
        else:
            self._semaphore.release(count, self._caller)

    def close(self) -> None:
        """Give all space back."""
        self._open = False
        count, self._bytes = self._bytes, 0
        if count:
            self._semaphore.release(count, self._caller)

    __del__ = close


class GrowingBuffer:
    """Space for one body, taken as it comes: its first `SMALL_BYTES` are of another kind than its rest."""

    def __init__(self, lease: BufferLease, first: BufferKind, rest: BufferKind) -> None:
        """Start with nothing.

        Args:
            lease: of the request.
            first: kind of the first bytes.
            rest: kind of the others.
        """
        self._lease = lease
        self._first = first
        self._rest = rest
        self._first_bytes_left = SMALL_BYTES

    async def grow(self, count: int) -> None:
        """Take more space.

        Args:
            count: bytes.

        Raises:
            Unavailable: there was no space in time.
        """
        of_first = min(count, self._first_bytes_left)
        self._first_bytes_left -= of_first
        if of_first:
            await self._lease.acquire(of_first, self._first)
        if count > of_first:
            await self._lease.acquire(count - of_first, self._rest)
