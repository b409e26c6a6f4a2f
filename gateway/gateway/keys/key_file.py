"""The file of keys: read, watched, and changed by one writer at a time."""

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
"""Shortest time between two looks at whether the file has changed."""

log = logs.logger()


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys in the file.

    Raises:
        BadKeys: it cannot be read, or is not what it should be.
    """
    try:
        return parse_keys(path.read_bytes())
    except OSError as error:
        raise InvalidKeyFile(error.strerror or type(error).__name__) from None


class KeyFile:
    """The keys of a file and others besides it, as the file stands.

    A look costs one `stat` a second, on the event loop: it and the file of a few kilobytes come out of the kernel's
    memory.
    """

    def __init__(self, path: Path, others: Sequence[Key], clock: Callable[[], float] = time.monotonic) -> None:
        """Read the file.

        Raises:
            BadKeys: it cannot be used.
        """
        self._path = path
        self._others = others
        self._clock = clock
        self._stamp = self._file_stamp()
        self._next_check = clock() + RELOAD_CHECK_SECONDS
        self._key_ring = KeyRing([*read_keys(path), *others])

    def key_ring(self) -> KeyRing:
        """The keys that count now. Those that counted last, while the file cannot be used."""
        now = self._clock()
        if now >= self._next_check:
            self._next_check = now + RELOAD_CHECK_SECONDS
            if (stamp := self._file_stamp()) != self._stamp:
                self._stamp = stamp
                self._reload()
        return self._key_ring

    def _file_stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        # The inode, too: two replacements may fall into one tick of the clock that stamps files.
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _reload(self) -> None:
        try:
            self._key_ring = KeyRing([*read_keys(self._path), *self._others])
        except InvalidKeyFile as error:
            log.error("API_KEYS_FILE cannot be used; the keys read before still count", reason=str(error))
        else:
            log.info("keys read", keys=len(self._key_ring))


@contextmanager
def editing_keys(path: Path) -> Iterator[list[Key]]:
    """The keys to change: what the list holds at the end is in the file, for the owner's eyes only.

    A file that is not there is an empty one. Two who change it at the same time do so one after the other, and whoever
    reads it finds all of the old or all of the new.

    Raises:
        BadKeys: the file cannot be used as it is.
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
            # Root may change what a service of another user reads: the file stays that user's.
            with suppress(OSError):
                owner = path.stat()
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
