"""A lock between processes that create the table at the same moment.

LanceDB checks that there is no table, and commits a new one afterwards: of two processes the later one replaces the
other's table with the rows in it. The operating system frees the lock when a process ends, however it ends.
"""

import asyncio
import fcntl
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

LOCK_FILE = ".creation.lock"


@asynccontextmanager
async def creation_lock(folder: Path | None) -> AsyncIterator[None]:
    """Hold the lock of a store in the block.

    Args:
        folder: Of the store; None for a bucket, which has no lock.
    """
    with ExitStack() as stack:
        # A folder that cannot be written gets its message when the table is created; a file system without locks has
        # what a bucket has, a check after the first write.
        with suppress(OSError):
            if folder is not None:
                file = stack.enter_context((folder / LOCK_FILE).open("w"))
                await asyncio.to_thread(fcntl.flock, file, fcntl.LOCK_EX)
        yield
