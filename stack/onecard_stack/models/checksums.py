"""Checks that model files are those that were fetched. No library notices a flipped byte when it loads weights.

A file is read once: after its digest was right, it is not read again while size, inode and times of change stay the
same.
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
"""File beside the model folders, with the digest, size, inode and times of each file whose digest was right."""
_CHUNK_BYTES = 1 << 22


class VerificationStopped(Exception):
    """The verification was cancelled."""


def digests(folder: Path) -> dict[str, str]:
    """Hash all files below a folder except hidden ones.

    Args:
        folder: the model's folder.

    Returns:
        SHA-256 in hexadecimal, by path relative to the folder with `/` as separator, sorted.
    """
    paths = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.as_posix(): sha256(folder / path) for path in paths if not path.as_posix().startswith(".")}


def sha256(path: Path, stop: Callable[[], bool] = lambda: False) -> str:
    """Hash a file.

    Args:
        path: the file.
        stop: asked after every 4 MiB whether to give up.

    Returns:
        SHA-256 in hexadecimal.

    Raises:
        OSError: the file cannot be read.
        VerificationStopped: `stop` returned True.
    """
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            if stop():
                raise VerificationStopped
            digest.update(chunk)
    return digest.hexdigest()


def corrupted_files(
    folder: Path, cache: Path, *, reread: bool = False, stop: Callable[[], bool] = lambda: False
) -> list[Path]:
    """Find the files of a model that differ from its manifest.

    Args:
        folder: the model's folder. Without a manifest, it has no such files.
        cache: the folder of all models, where the results are remembered if it is writable.
        reread: read all files, even those that were checked before.
        stop: asked after every 4 MiB whether to give up.

    Returns:
        Paths of files that are missing, unreadable or have another SHA-256.

    Raises:
        VerificationStopped: `stop` returned True.
    """
    manifest = read_manifest(folder)
    verified = _read_verified(cache)
    corrupted = []
    for name, digest in (manifest.files if manifest else {}).items():
        path = folder / name
        try:
            fingerprint = [digest, *_stat_fingerprint(path)]
            if not reread and verified.get(str(path)) == fingerprint:
                continue
            matches = sha256(path, stop) == digest
        except OSError:
            matches = False
        if matches:
            verified[str(path)] = fingerprint
        else:
            verified.pop(str(path), None)
            corrupted.append(path)
    _write_verified(cache, verified)
    return corrupted


def _stat_fingerprint(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]


def _read_verified(cache: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        found = json.loads((cache / VERIFIED_FILE).read_text())
        if isinstance(found, dict):
            return found
    return {}


def _write_verified(cache: Path, verified: dict[str, Any]) -> None:
    if verified == _read_verified(cache):
        return
    with suppress(OSError):  # this user may not be allowed to write there
        unfinished = cache / f"{VERIFIED_FILE}.new"
        unfinished.write_text(json.dumps(verified, indent=1))
        unfinished.replace(cache / VERIFIED_FILE)


class BackgroundVerification:
    """Verifies model folders in a thread, from construction on."""

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
        """Whether all files have been checked."""
        return not self._thread.is_alive()

    @property
    def corrupted(self) -> list[Path]:
        """Damaged files found so far."""
        return self._corrupted

    def stop(self) -> None:
        """Cancel the verification, and wait until the thread has ended."""
        self._stop.set()
        self._thread.join()
