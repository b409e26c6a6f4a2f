"""Finds files of other users. A run with `sudo` leaves files that only root can change."""

import os
import pwd
import shlex
from collections.abc import Iterable
from pathlib import Path

MAX_SHOWN = 3


def foreign_files(places: Iterable[Path]) -> list[Path]:
    """Find files that belong to another user and that this user cannot write.

    Args:
        places: files and folders. Of a folder, its direct children are checked too.

    Returns:
        Those paths, each once, in the order of `places`. Empty for root, who may write everywhere.
    """
    if os.geteuid() == 0:
        return []
    found = []
    for place in places:
        for path in (place, *_children(place)):
            if path not in found and _is_foreign(path):
                found.append(path)
    return found


def ownership_message(paths: list[Path], home: Path) -> str:
    """Describe foreign files in one line.

    Args:
        paths: the files, at least one. `MAX_SHOWN` of them are named.
        home: the folder to which the suggested command applies.

    Returns:
        A sentence that names the files and their owner, and the command to type.
    """
    shown = ", ".join(str(path) for path in paths[:MAX_SHOWN])
    more = f" and {len(paths) - MAX_SHOWN} more" if len(paths) > MAX_SHOWN else ""
    user, belong = _user_name(os.geteuid()), "belongs" if len(paths) == 1 else "belong"
    message = f"{shown}{more} {belong} to {_owner_name(paths[0])}, not to you ({user}), as after 'sudo make'."
    return f"{message} Type: sudo chown -R {user} {shlex.quote(str(home))}"


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _is_foreign(path: Path) -> bool:
    try:
        return path.lstat().st_uid != os.geteuid() and not os.access(path, os.W_OK)
    except OSError:
        return False


def _owner_name(path: Path) -> str:
    try:
        return _user_name(path.lstat().st_uid)
    except OSError:
        return "somebody else"


def _user_name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
