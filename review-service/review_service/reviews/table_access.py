"""Work on the table, guarded: done again where that helps, and a failure told for what it is.

LanceDB's exceptions say little; its words hold the system's error number, and paths, which no client is shown.
"""

import asyncio
import errno
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
"""Of a write that others were ahead of, on top of LanceDB's own ten; and of a read whose files were dropped."""
MIN_FREE_BYTES = 16_000_000
"""Bytes on the store's disk; with fewer it counts as full. A batch of 128 reviews takes 0.5 MB."""

_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_COMMIT_CONFLICT = re.compile(r"commit conflict|concurrent writ", re.IGNORECASE)

log = logs.logger()


def write_error_of(error: Exception) -> StoreNotWritable | None:
    """Why the system lets nothing be written; None if that is not what has failed."""
    found = _OS_ERROR.search(str(error))
    number = int(found[1]) if found else getattr(error, "errno", None)
    if number in _DISK_FULL:
        return StoreNotWritable(
            "The disk that holds the reviews is full; reading goes on. Free some space, or ask for it."
        )
    if number in _READ_ONLY:
        return StoreNotWritable("The reviews may be read and not written. Tell the operator to look at REVIEW_STORE.")
    return None


def is_commit_conflict(error: Exception) -> bool:
    """Other writers were ahead, and the same may be tried again."""
    return bool(_COMMIT_CONFLICT.search(str(error)))


def damaged_error(error: Exception) -> StoreDamaged:
    """The answer when LanceDB fails for another reason."""
    log.error("the store fails", error=type(error).__name__)
    return StoreDamaged("The stored reviews cannot be read or written. Tell the operator to look at REVIEW_STORE.")


class TableAccess:
    """What guards one table, and remembers whether it can be written.

    `changed` is set by whatever gives the keeper of indexes work, and cleared by him.
    """

    def __init__(self, address: str) -> None:
        """`address` is the store's: a folder or a bucket."""
        self.changed = asyncio.Event()
        self._folder = None if "://" in address else Path(address)
        self._write_error: StoreNotWritable | None = None

    @property
    def write_error(self) -> StoreNotWritable | None:
        """Why nothing can be written, as far as is known."""
        if self._write_error is None and self._folder is not None:
            with suppress(OSError):
                if shutil.disk_usage(self._folder).free < MIN_FREE_BYTES:
                    return write_error_of(OSError(errno.ENOSPC, ""))
        return self._write_error

    def record_write_error(self, error: Exception) -> StoreNotWritable | None:
        """As `write_error_of`; remembered until something has been written."""
        if why := write_error_of(error):
            self._write_error = why
            self.changed.set()  # The keeper tries from time to time.
        return why

    async def check_writable(self) -> None:
        """Forget a refusal if a file can be written again. In a bucket the next write tells.

        Raises:
            StoreRefuses: it cannot.
        """
        if self._write_error is None:
            return
        if self._folder is not None:
            try:
                await asyncio.to_thread(_probe_write, self._folder)
            except OSError as error:
                raise self.record_write_error(error) or damaged_error(error) from None
        self._write_error = None

    async def read(self, table: AsyncTable, work: TableOperation[T]) -> T:
        """What `work` comes to; once more without those indexes that cannot be read.

        Raises:
            StoreDamaged: it fails all the same.
        """
        for attempt in range(MAX_ATTEMPTS):
            try:
                return await work(table)
            except Exception as error:  # LanceDB's are of many classes, ValueError for a broken index among them.
                log.warning("reading the store fails", error=type(error).__name__, attempt=attempt + 1)
                failure = error
        try:
            if await self.drop_broken_indexes(table):
                return await work(table)
        except Exception as error:
            failure = error
        raise damaged_error(failure) from None

    async def write(self, table: AsyncTable, work: TableOperation[T]) -> T:
        """What `work` comes to. Indexes stay as they are, whatever it was that failed.

        Raises:
            StoreRefuses: the disk is full, or may not be written.
            Unavailable: other writers were ahead, again and again.
            StoreDamaged: it fails for another reason.
        """
        for attempt in range(MAX_ATTEMPTS):
            try:
                done = await work(table)
            except Exception as error:
                if why := self.record_write_error(error):
                    log.error("the store refuses", error=type(error).__name__)
                    raise why from None
                log.warning("writing the store fails", error=type(error).__name__, attempt=attempt + 1)
                failure = error
            else:
                self._write_error = None
                self.changed.set()
                return done
        if is_commit_conflict(failure):
            raise Unavailable("Others write all the time. Try again in a few seconds.", retry_after=5) from None
        raise damaged_error(failure) from None

    async def drop_broken_indexes(self, table: AsyncTable) -> int:
        """Drop the indexes that cannot be read, where the table itself can; how many. They are made anew in the
        background.

        Raises:
            Exception: the table cannot be read, or an index not be dropped.
        """
        broken = [index.name for index in await table.list_indices() if not await _is_readable(table, index.name)]
        await table.query().limit(1).to_list()
        for name in broken:
            await table.drop_index(name)
            log.warning("an index is made anew", index=name)
            self.changed.set()
        return len(broken)


async def _is_readable(table: AsyncTable, index: str) -> bool:
    try:
        await table.prewarm_index(index)  # Reads all of it.
    except Exception:
        return False
    return True


def _probe_write(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(1 << 20))
        file.flush()
