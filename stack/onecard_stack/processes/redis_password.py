"""The password of the Redis that the stack starts: generated once, and kept where Redis itself reads it.

The file is Redis' configuration in the run folder, and only its owner can read it. Our processes get the password from
their environment; it is in no command line and no log.
"""

import re
import secrets
from collections.abc import Mapping
from pathlib import Path

CONFIG_FILE = "redis.conf"
_PASSWORD_LINE = re.compile(r"requirepass ([0-9a-f]{64})\n")


def render(path: Path) -> str:
    """Render Redis' configuration with the present password, or with a new one if there is none.

    Args:
        path: the configuration file.

    Returns:
        Its text.

    Raises:
        OSError: the file exists and cannot be read.
    """
    return f"requirepass {read_password(path) or secrets.token_hex(32)}\n"


def read_password(path: Path) -> str | None:
    """Read the password.

    Args:
        path: the configuration file.

    Returns:
        64 hex digits; None if the file does not exist, or was not written by `render`.

    Raises:
        OSError: it cannot be read.
    """
    try:
        found = _PASSWORD_LINE.fullmatch(path.read_text(errors="replace"))
    except FileNotFoundError:
        return None
    return found and found[1]


def password_variables(files: Mapping[str, str]) -> dict[str, str]:
    """Take the password from the rendered files, as a variable for our processes.

    Args:
        files: text of each file in the run folder, by name.

    Returns:
        `REDIS_PASSWORD`; empty if the stack starts no Redis.
    """
    found = _PASSWORD_LINE.fullmatch(files.get(CONFIG_FILE, ""))
    return {"REDIS_PASSWORD": found[1]} if found else {}
