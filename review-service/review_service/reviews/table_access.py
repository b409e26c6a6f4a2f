"""Runs operations on the table: retries those that may succeed, and translates LanceDB's errors into ours.

The classes of LanceDB's exceptions say little. Their messages contain the system's error number, but also paths, which
clients must not see.
"""

import asyncio
import errno
import math
import re
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from lancedb.table import AsyncTable

from onecard import logs
from onecard.errors import Unavailable
from review_service.errors import StoreDamaged, StoreNotWritable

T = TypeVar("T")
TableOperation = Callable[[AsyncTable], Awaitable[T]]

MAX_ATTEMPTS = 3
"""Maximum number of attempts of a write with commit conflicts (LanceDB itself retries ten times in each) and of a read
whose files were deleted."""
PAUSE_SECONDS = 0.1
"""Delay before the second attempt of a read, and twice that before the third."""
RECHECK_SECONDS = 2.0
"""An index is dropped if it cannot be read twice, this long apart: a fault of the disk or the bucket may pass."""
CHECK_INTERVAL_SECONDS = 10.0
"""Minimum interval between two checks of the indexes, which read all of them."""
MIN_FREE_BYTES = 16_000_000
"""With less free space the store's disk counts as full. A batch of 128 reviews takes 0.5 MB."""

_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_PASSING_ERRNOS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ETIMEDOUT)
_PASSING_MESSAGE = re.compile(
    r"timed out|slow ?down|throttl|too many (open files|requests)|service unavailable|status code: (408|429|5\d\d)"
    r"|error sending request|connection (reset|refused|closed)|dns error|out of memory|resources exhausted",
    re.IGNORECASE,
)
"""LanceDB's messages for a bucket that does not answer or is busy, and for want of files or memory."""
_COMMIT_CONFLICT = re.compile(r"commit conflict|concurrent writ", re.IGNORECASE)

log = logs.logger()


def write_error_of(error: Exception) -> StoreNotWritable | None:
    """Translate a failed write.

    Args:
        error: What LanceDB or the system raised.

    Returns:
        The error for clients if the disk is full or read-only; None for any other failure.
    """
    number = _errno(error)
    if number in _DISK_FULL:
        return StoreNotWritable(
            "The disk that holds the reviews is full; reading goes on. Free some space, or ask for it."
        )
    if number in _READ_ONLY:
        return StoreNotWritable("The reviews may be read and not written. Tell the operator to look at REVIEW_STORE.")
    return None


def may_pass(error: Exception) -> bool:
    """Whether a read failed for want of files or memory, or because of a disk or a bucket: then no index is broken."""
    passing = isinstance(error, MemoryError | TimeoutError) or _errno(error) in _PASSING_ERRNOS
    return passing or bool(_PASSING_MESSAGE.search(str(error)))


def _errno(error: Exception) -> int | None:
    match = _OS_ERROR.search(str(error))
    return int(match[1]) if match else getattr(error, "errno", None)


def is_commit_conflict(error: Exception) -> bool:
    """Whether another process committed first, so that the write can be retried."""
    return bool(_COMMIT_CONFLICT.search(str(error)))


def log_damage(error: Exception) -> str:
    """Log a failure that is neither a conflict nor a full or read-only disk.

    Args:
        error: What LanceDB raised; only its class is logged.

    Returns:
        The message of the `StoreDamaged` to raise, without details of the failure.
    """
    log.error("the store failed", error=type(error).__name__)
    return "The stored reviews cannot be read or written. Tell the operator to look at REVIEW_STORE."


class TableAccess:
    """Runs operations on one table, and remembers whether it can be written."""

    def __init__(self, address: str) -> None:
        """`address` is the folder or bucket of the store."""
        self.changed = asyncio.Event()
        """Set when the indexes may need maintenance; index maintenance clears it."""
        self.folder = None if "://" in address else Path(address)
        self._write_error: StoreNotWritable | None = None
        self._repair: asyncio.Task[None] | None = None
        """The latest check of the indexes."""
        self._next_check = -math.inf
        """Earliest time of the next check of the indexes, by the event loop's clock."""

    @property
    def write_error(self) -> StoreNotWritable | None:
        """Why nothing can be written, as far as is known; None if writes are expected to succeed."""
        if self._write_error is None and self.folder is not None:
            with suppress(OSError):
                if shutil.disk_usage(self.folder).free < MIN_FREE_BYTES:
                    return write_error_of(OSError(errno.ENOSPC, ""))
        return self._write_error

    def record_write_error(self, error: Exception) -> StoreNotWritable | None:
        """Translate a failed write, and remember the result until a write succeeds.

        Args:
            error: What LanceDB or the system raised.

        Returns:
            As `write_error_of`.
        """
        if write_error := write_error_of(error):
            self._write_error = write_error
            self.changed.set()  # Index maintenance retries from time to time.
        return write_error

    async def check_writable(self) -> None:
        """If the last write failed, check whether writing is possible again. A bucket is not probed.

        Raises:
            StoreNotWritable: Nothing can be written.
            StoreDamaged: Writing fails for another reason.
        """
        if self._write_error is None:
            return
        if self.folder is not None:
            try:
                await asyncio.to_thread(_probe_write, self.folder)
            except OSError as error:
                raise self.record_write_error(error) or StoreDamaged(log_damage(error)) from None
        self._write_error = None

    async def read(self, table: AsyncTable, operation: TableOperation[T]) -> T:
        """Run an operation that reads. If it keeps failing, drop broken indexes and run it once more.

        Args:
            table: The table.
            operation: Called with the table, up to `MAX_ATTEMPTS` + 1 times, with pauses.

        Returns:
            The operation's result.

        Raises:
            StoreDamaged: The operation failed every time.
        """
        for attempt in range(MAX_ATTEMPTS):
            if attempt:
                await asyncio.sleep(attempt * PAUSE_SECONDS)
            try:
                return await operation(table)
            except Exception as error:  # LanceDB raises many classes, for a broken index ValueError.
                log.warning("reading the store failed", error=type(error).__name__, attempt=attempt + 1)
                failure = error
        if not may_pass(failure):
            try:
                await self.drop_broken_indexes(table)
                return await operation(table)  # Also if it was another read that has dropped one.
            except Exception as error:
                failure = error
        raise StoreDamaged(log_damage(failure)) from None

    async def write(self, table: AsyncTable, operation: TableOperation[T]) -> T:
        """Run an operation that writes. Unlike `read`, it never drops an index.

        Args:
            table: The table.
            operation: Called with the table, up to `MAX_ATTEMPTS` times.

        Returns:
            The operation's result.

        Raises:
            StoreNotWritable: The disk is full or read-only.
            Unavailable: Other processes committed first at every attempt.
            StoreDamaged: The operation failed for another reason.
        """
        for attempt in range(MAX_ATTEMPTS):
            try:
                result = await operation(table)
            except Exception as error:
                if write_error := self.record_write_error(error):
                    log.error("the store is not writable", error=type(error).__name__)
                    raise write_error from None
                log.warning("writing the store failed", error=type(error).__name__, attempt=attempt + 1)
                failure = error
            else:
                self._write_error = None
                self.changed.set()
                return result
        if is_commit_conflict(failure):
            raise Unavailable("Others write all the time. Try again in a few seconds.", retry_after=5) from None
        raise StoreDamaged(log_damage(failure)) from None

    async def drop_broken_indexes(self, table: AsyncTable) -> None:
        """Drop the indexes that cannot be read twice. Index maintenance creates them again in the background.

        All who find the table broken share one check of the indexes, which goes on when some of them leave.

        Args:
            table: The table; it must be readable itself.

        Raises:
            Exception: The table cannot be read, or an index cannot be dropped.
        """
        if self._repair is None or self._repair.done():
            if asyncio.get_running_loop().time() < self._next_check:
                return
            self._repair = asyncio.create_task(self._drop_broken_indexes(table))
        await asyncio.shield(self._repair)

    async def _drop_broken_indexes(self, table: AsyncTable) -> None:
        try:
            await table.query().limit(1).to_list()
            if broken := await _broken_indexes(table):
                await asyncio.sleep(RECHECK_SECONDS)
                broken &= await _broken_indexes(table)
            for name in broken:
                await table.drop_index(name)
                log.warning("broken index dropped", index=name)
                self.changed.set()
        finally:
            self._next_check = asyncio.get_running_loop().time() + CHECK_INTERVAL_SECONDS


async def _broken_indexes(table: AsyncTable) -> set[str]:
    broken = set()
    for index in await table.list_indices():
        try:
            await table.prewarm_index(index.name)  # Reads the whole index.
        except Exception as error:
            log.warning("an index cannot be read", index=index.name, error=type(error).__name__)
            if not may_pass(error):
                broken.add(index.name)
    return broken


def _probe_write(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(1 << 20))
        file.flush()
