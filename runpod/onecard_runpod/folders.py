"""Makes the folders of a pod, on a volume that may refuse to give them to the user who runs the stack."""

import os
import pwd
import subprocess
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from onecard import logs

_FOLDER_VARIABLES = (
    "MODEL_CACHE_PATH",
    "HF_HOME",
    "ONECARD_HOME",
    "REVIEW_STORE",
    "SEARCH_WORDS",
    "VLLM_CACHE_ROOT",
    "TORCHINDUCTOR_CACHE_DIR",
    "TRITON_CACHE_DIR",
    "FLASHINFER_WORKSPACE_BASE",
)
"""Variables that name folders which the stack writes to, or the operator copies files to."""

log = logs.logger()


def prepare(
    environment: Mapping[str, str], owner: pwd.struct_passwd | None, others: Collection[str] = ()
) -> list[Path]:
    """Make the folders that the environment names, and others, and see that their owner can write to them.

    A network volume may map all files to one user and refuse chown. Then the folders are opened to every user of the
    container, which has no others.

    Args:
        environment: the stack's variables; only absolute paths count, so that the URL of a bucket does not.
        owner: who runs the stack; None: whoever runs this.
        others: more absolute paths of folders.

    Returns:
        The folders that the owner cannot write to. Each has been logged, with what to do.
    """
    names = {environment.get(name, "") for name in _FOLDER_VARIABLES}
    refused = [
        path for path in map(Path, sorted({*names, *others})) if path.is_absolute() and not _is_usable(path, owner)
    ]
    for path in refused:
        log.error(
            "a folder of the pod cannot be written to: attach another volume, or give it to the stack's user",
            path=str(path),
            user=owner.pw_name if owner else os.getuid(),
        )
    return refused


def _is_usable(path: Path, owner: pwd.struct_passwd | None) -> bool:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    if owner is None:
        return os.access(path, os.W_OK | os.X_OK)
    try:
        os.chown(path, owner.pw_uid, owner.pw_gid)
    except OSError as error:
        log.warning("the volume refuses chown", path=str(path), reason=error.strerror)
        if not _owner_writes(path, owner):
            with suppress(OSError):
                path.chmod(0o777)
    return _owner_writes(path, owner)


def _owner_writes(path: Path, owner: pwd.struct_passwd) -> bool:
    """Ask as that user: root's own access says nothing on a network volume."""
    try:
        command = ["/usr/bin/test", "-w", str(path), "-a", "-x", str(path)]
        return subprocess.run(command, user=owner.pw_uid, group=owner.pw_gid, extra_groups=[]).returncode == 0  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return False
