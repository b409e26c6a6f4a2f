"""A part's log: a file that it writes to by itself.

Nobody stands between the two, so that no part ever waits for somebody to read what it writes.
"""

import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

MAX_LOG_BYTES = 10_000_000
BACKUPS = 3
PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700


def redirect_output(path: Path) -> None:
    """Turn this process's standard output and error, and those of its children, to the file; its owner's alone.

    Where the file cannot be had, what is said is lost: no log is worth a part that does not run.
    """
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE_FILE)
    except OSError:
        file = os.open(os.devnull, os.O_WRONLY)
    sys.stdout.flush()
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)


def make_private(folder: Path) -> None:
    """The folder and the logs in it are their owner's alone.

    Raises:
        OSError: they cannot be made, or are another user's.
    """
    folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    folder.chmod(PRIVATE_FOLDER)
    for log in folder.glob("*.log*"):
        log.chmod(PRIVATE_FILE)


def rotate(folder: Path) -> None:
    """Make a backup of each log that has grown large, and empty it. Writers go on: each of their lines is appended."""
    for log in folder.glob("*.log"):
        with suppress(OSError):
            if log.stat().st_size > MAX_LOG_BYTES:
                _rotate_file(log)


def _rotate_file(log: Path) -> None:
    backups = [log.with_name(f"{log.name}.{number}") for number in range(1, BACKUPS + 1)]
    for older, newer in zip(reversed(backups), reversed(backups[:-1]), strict=False):
        if newer.exists():
            newer.replace(older)
    try:
        with log.open("rb") as source, open(os.open(backups[0], os.O_WRONLY | os.O_CREAT, PRIVATE_FILE), "wb") as copy:
            shutil.copyfileobj(source, copy)
    finally:  # also on a full disk, which this helps
        os.truncate(log, 0)
