"""Runs a coroutine beside a block."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress


@asynccontextmanager
async def running(coroutine: Coroutine[None, None, None], *, name: str) -> AsyncIterator[None]:
    """Run a coroutine in a task, which is cancelled at the end of the block.

    Args:
        coroutine: what to run.
        name: of the task, for debugging.

    Yields:
        Once the task was made.

    Raises:
        Exception: what the coroutine raised before the block ended.
    """
    task = asyncio.create_task(coroutine, name=name)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
