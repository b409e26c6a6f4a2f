"""The key file: read, reloaded when it changes, and edited by one process at a time."""

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from gateway.keys.key_ring import InvalidKeyFile, Key, KeyRing, parse_keys, render_keys
from onecard import logs

RELOAD_CHECK_SECONDS = 1.0
"""Shortest time between two checks for changes."""

log = logs.logger()


def read_keys(path: Path) -> tuple[Key, ...]:
    """Read a key file.

    Args:
        path: the file.

    Returns:
        Its keys.

    Raises:
        InvalidKeyFile: it cannot be read, or its content is invalid.
    """
    try:
        return parse_keys(path.read_bytes())
    except OSError as error:
        raise InvalidKeyFile(error.strerror or type(error).__name__) from None


class KeyFile:
    """The current keys of a file, and others besides.

    A check for changes is one `stat` a second, on the event loop: it and the file of a few kilobytes come from the
    kernel's cache.
    """

    def __init__(self, path: Path, others: Sequence[Key], clock: Callable[[], float] = time.monotonic) -> None:
        """Read the file.

        Args:
            path: the file.
            others: keys that are valid too.
            clock: monotonic seconds.

        Raises:
            InvalidKeyFile: it cannot be used.
        """
        self._path = path
        self._others = others
        self._clock = clock
        self._stamp = self._file_stamp()
        self._next_check = clock() + RELOAD_CHECK_SECONDS
        self._key_ring = KeyRing([*read_keys(path), *others])
        self._failure: str | None = None
        """Why the latest attempt to read it failed; None if it succeeded."""

    def key_ring(self) -> KeyRing:
        """The current keys. While the file cannot be used, those of its last valid version; each check tries again.

        Returns:
            The keys, those of the file and the others.
        """
        now = self._clock()
        if now >= self._next_check:
            self._next_check = now + RELOAD_CHECK_SECONDS
            if (stamp := self._file_stamp()) != self._stamp:
                self._stamp = stamp if self._reload() else None
        return self._key_ring

    def _file_stamp(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        # With the inode, because two replacements may get the same timestamp.
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _reload(self) -> bool:
        try:
            self._key_ring = KeyRing([*read_keys(self._path), *self._others])
        except InvalidKeyFile as error:
            if self._failure != (reason := str(error)):
                log.error("API_KEYS_FILE cannot be used; the keys read before still count", reason=reason)
            self._failure = reason
            return False
        log.info("keys read", keys=len(self._key_ring))
        self._failure = None
        return True


@contextmanager
def editing_keys(path: Path) -> Iterator[list[Key]]:
    """Edit the keys of a file. At the end of the block the list is written back, readable for the owner only.

    A missing file counts as empty. Concurrent edits are serialized, and readers see either the old or the new content.

    Args:
        path: the file.

    Yields:
        The keys, to be changed in place.

    Raises:
        InvalidKeyFile: the current file is invalid.
        OSError: it cannot be written.
    """
    path = path.resolve()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        keys = list(read_keys(path)) if path.exists() else []
        yield keys
        _replace(path, render_keys(keys))
        os.fsync(folder)
    finally:
        os.close(folder)


def _replace(path: Path, text: bytes) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
            # Root may edit the file of a service that runs as another user, who must still own it.
            with suppress(OSError):
                owner = path.stat()
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
