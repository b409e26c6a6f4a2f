"""Are the files of a model those that were fetched? A flipped byte in weights is no error to whoever loads them.

Digests are compared once: a file that has been found right is not read again while its size, inode and time of change
are the same.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

from onecard.models.folders import read_manifest

VERIFIED_FILE = ".verified.json"
"""File beside the models' folders, with what each file looked like when its digest was right."""
_CHUNK_BYTES = 1 << 22


class VerificationStopped(Exception):
    """Nobody wants to know any more."""


def digests(folder: Path) -> dict[str, str]:
    """Path below the folder → SHA-256, of all files but hidden ones."""
    paths = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.as_posix(): sha256(folder / path) for path in paths if not path.as_posix().startswith(".")}


def sha256(path: Path, stop: Callable[[], bool] = lambda: False) -> str:
    """Of a file's content, in hexadecimal.

    Raises:
        OSError: it cannot be read.
        Stopped: `stop` says so.
    """
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            if stop():
                raise VerificationStopped
            digest.update(chunk)
    return digest.hexdigest()


def corrupted_files(
    folder: Path, cache: Path, *, anew: bool = False, stop: Callable[[], bool] = lambda: False
) -> list[Path]:
    """The files of a finished model folder that are not what its manifest says.

    Args:
        cache: the folder of all models, which keeps what has been found right; if it can be written.
        anew: read all files, also those that have been found right.

    Raises:
        Stopped: `stop` says so.
    """
    manifest = read_manifest(folder)
    right = _read_verified(cache)
    wrong = []
    for name, digest in (manifest.files if manifest else {}).items():
        path = folder / name
        try:
            looks = [digest, *_stat_fingerprint(path)]
            if not anew and right.get(str(path)) == looks:
                continue
            is_right = sha256(path, stop) == digest
        except OSError:
            is_right = False
        if is_right:
            right[str(path)] = looks
        else:
            right.pop(str(path), None)
            wrong.append(path)
    _write_verified(cache, right)
    return wrong


def _stat_fingerprint(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]


def _read_verified(cache: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        found = json.loads((cache / VERIFIED_FILE).read_text())
        if isinstance(found, dict):
            return found
    return {}


def _write_verified(cache: Path, right: dict[str, Any]) -> None:
    if right == _read_verified(cache):
        return
    with suppress(OSError):  # the models may lie where only others write
        unfinished = cache / f"{VERIFIED_FILE}.new"
        unfinished.write_text(json.dumps(right, indent=1))
        unfinished.replace(cache / VERIFIED_FILE)


class BackgroundVerification:
    """Looks at model folders while something else goes on."""

    def __init__(self, folders: Iterable[Path], cache: Path) -> None:
        self._stop = Event()
        self._corrupted: list[Path] = []
        self._thread = Thread(target=self._run, args=(list(folders), cache), daemon=True)
        self._thread.start()

    def _run(self, folders: list[Path], cache: Path) -> None:
        with suppress(VerificationStopped):
            for folder in folders:
                self._corrupted += corrupted_files(folder, cache, stop=self._stop.is_set)

    @property
    def done(self) -> bool:
        """All has been looked at."""
        return not self._thread.is_alive()

    @property
    def corrupted(self) -> list[Path]:
        """What has been found damaged so far."""
        return self._corrupted

    def stop(self) -> None:
        """Look no further."""
        self._stop.set()
        self._thread.join()
