"""Writes an engine's folder whole or not at all."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onecard.inference.engines.manifest import MANIFEST, EngineManifest
from onecard.inference.engines.names import EncoderKind, EngineName, Precision

_PREFIX = ".building-"
_ABANDONED_SECONDS = 24 * 3600


def name_of(kind: EncoderKind, engine: EngineName, precision: Precision, inputs: str) -> str:
    """The name of an engine's folder.

    Args:
        kind: of the encoder.
        engine: that runs it.
        precision: of the calculation.
        inputs: digest of everything that it was built from.

    Returns:
        The name.
    """
    return f"{kind}-{engine}-{precision}-{inputs}"


@contextmanager
def unfinished_folder(engines: Path) -> Iterator[Path]:
    """A folder to build in, which is removed in the end unless `finish` has renamed it.

    Args:
        engines: folder of the engines; made if it is missing.

    Yields:
        An empty folder on the same file system. Its hidden name never looks like an engine.

    Raises:
        OSError: it cannot be made, for example on a full disk.
    """
    engines.mkdir(parents=True, exist_ok=True)
    for left in engines.glob(f"{_PREFIX}*"):  # by a build that was killed
        if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=engines))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def finish(folder: Path, engines: Path, manifest: EngineManifest) -> Path:
    """Write the manifest, make sure that everything is on the disk, and give the folder its name.

    Args:
        folder: from `unfinished_folder`, with the engine's files.
        engines: folder of the engines.
        manifest: of the engine.

    Returns:
        The folder's final path. One of the same inputs is replaced.

    Raises:
        OSError: the disk is full, or a file cannot be written.
    """
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1))
    for path in (*folder.iterdir(), folder):
        _sync(path)
    folder.chmod(0o755)  # mkdtemp's folders are private; a service may run as another user
    final = engines / name_of(manifest.kind, manifest.engine, manifest.precision, manifest.inputs)
    if final.exists():
        final.rename(folder.with_suffix(".old"))
        shutil.rmtree(folder.with_suffix(".old"), ignore_errors=True)
    folder.rename(final)
    _sync(engines)
    return final


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
