"""The password of the Redis that is started here: made once, and kept where Redis itself reads it.

The file is Redis' configuration, its owner's alone, in the run folder. Our processes get the password from their
environment; no command line and no log has it.
"""

import re
import secrets
from collections.abc import Mapping
from pathlib import Path

CONFIG_FILE = "redis.conf"
_PASSWORD_LINE = re.compile(r"requirepass ([0-9a-f]{64})\n")


def render(path: Path) -> str:
    """The file's text: what is there, or a new password where that is none.

    Raises:
        OSError: there is a file that cannot be read.
    """
    return f"requirepass {read_password(path) or secrets.token_hex(32)}\n"


def read_password(path: Path) -> str | None:
    """What the file at `path` holds, 64 hex digits; None where it is not there, or is not ours.

    Raises:
        OSError: it cannot be read.
    """
    try:
        found = _PASSWORD_LINE.fullmatch(path.read_text(errors="replace"))
    except FileNotFoundError:
        return None
    return found and found[1]


def password_variables(files: Mapping[str, str]) -> dict[str, str]:
    """What our processes get, of files' texts by name; nothing where no Redis is started."""
    found = _PASSWORD_LINE.fullmatch(files.get(CONFIG_FILE, ""))
    return {"REDIS_PASSWORD": found[1]} if found else {}
