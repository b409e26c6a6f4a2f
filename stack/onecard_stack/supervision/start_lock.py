"""The lock that lets only one command at a time start a stack, with the id of the process that has it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from onecard_stack.errors import StackError

LOCK_FILE = "lock"


@contextmanager
def start_lock(run_folder: Path) -> Iterator[None]:
    """Have the lock inside the block.

    Args:
        run_folder: the stack's run folder, which is made if it is missing.

    Raises:
        StackError: another process has it.
    """
    run_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    run_folder.chmod(0o700)
    with (run_folder / LOCK_FILE).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = "Another 'onecard up' is at work here. Wait for it, or end it with 'make down'."
            raise StackError(message) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def starting_process(run_folder: Path) -> psutil.Process | None:
    """Find the process that starts the stack now.

    Args:
        run_folder: the stack's run folder.

    Returns:
        The process that has the lock; None if nobody has it.
    """
    path = run_folder / LOCK_FILE
    with suppress(OSError, ValueError, psutil.Error), path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return psutil.Process(int(file.read()))
    return None
