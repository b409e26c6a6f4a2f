"""Log files. Every process writes its own.

No pipe lies between, so that no process ever blocks because a reader of its log is stopped or slow.
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
    """Redirect standard output and error of this process and its children to a file that only its owner can read.

    If the file cannot be opened, the output is discarded: a process that runs matters more than its log.

    Args:
        path: the log file. It is created if needed, and appended to.
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
    """Create the folder if needed, and let only its owner read it and the logs in it.

    Args:
        folder: the folder of all logs.

    Raises:
        OSError: the folder cannot be created, or another user owns one of them.
    """
    folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    folder.chmod(PRIVATE_FOLDER)
    for log in folder.glob("*.log*"):
        log.chmod(PRIVATE_FILE)


def rotate(folder: Path) -> None:
    """Copy each log over `MAX_LOG_BYTES` to a backup and truncate it. Writers append, so they need not reopen it.

    Args:
        folder: the folder of all logs.
    """
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
    finally:  # on a full disk too, where this frees space
        os.truncate(log, 0)
