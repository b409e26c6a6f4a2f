"""Whose files are they? What `sudo` leaves behind is root's, and in everybody else's way."""

import os
import pwd
import shlex
from collections.abc import Iterable
from pathlib import Path

MAX_SHOWN = 3


def foreign_files(places: Iterable[Path]) -> list[Path]:
    """Of the places and what lies directly in them, that which is another user's and closed to this one.

    Root is at home everywhere.
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
    """What they are, whose, and what to type."""
    shown = ", ".join(str(path) for path in paths[:MAX_SHOWN])
    more = f" and {len(paths) - MAX_SHOWN} more" if len(paths) > MAX_SHOWN else ""
    us, belong = _user_name(os.geteuid()), "belongs" if len(paths) == 1 else "belong"
    whose = f"{shown}{more} {belong} to {_owner_name(paths[0])}, not to you ({us}), as after 'sudo make'."
    return f"{whose} Type: sudo chown -R {us} {shlex.quote(str(home))}"


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
