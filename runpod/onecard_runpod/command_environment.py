"""What a command finds around it: the locale, and a file `.env` that somebody's editor has written."""

import codecs
import difflib
import locale
import os
import sys
from collections.abc import Collection, Mapping
from io import StringIO, TextIOWrapper
from pathlib import Path

from dotenv.main import DotEnv

_MIN_SIMILARITY = 0.88
"""From 0 to 1, as difflib counts. `GATEWY_PORT` has 0.96 of a setting's name, `MKL_NUM_THREADS` 0.87."""


def ensure_utf8() -> None:
    """Begin anew in UTF-8 where the locale is another one, so that files, names and all children are in UTF-8.

    What is printed is in the terminal's encoding.
    """
    if not sys.flags.utf8_mode and sys.getfilesystemencoding() != "utf-8":
        # In bytes: a value may be none in this locale.
        environment = {**os.environb, b"PYTHONUTF8": b"1"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606 - no shell is meant
    spoken = codecs.lookup(locale.getencoding()).name
    # Where nobody has chosen a locale (ASCII), the terminal most likely is one of UTF-8.
    for stream in (sys.stdout, sys.stderr) if spoken not in ("utf-8", "ascii") else ():
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding=spoken, errors="replace")


def read_dotenv(folder: Path, *, guess: bool = False) -> dict[str, str]:
    """What `.env` in `folder` sets, if there is one.

    Args:
        guess: read it in the encoding that it is most likely in, where that is not UTF-8.

    Raises:
        SystemExit: it cannot be read, or is not in UTF-8; the message says what to do.
    """
    path = folder / ".env"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        if guess:
            return {}
        raise SystemExit(f"settings: {path} cannot be read: {error.strerror}.") from None
    text = _decode_utf8(content)
    if text is None:
        encoding = _guess_encoding(content)
        if not guess:
            raise SystemExit(
                f"settings: {path} is not in UTF-8, but most likely in {encoding}. Save it as UTF-8 (Notepad: Save as, "
                f"Encoding: UTF-8), or type: iconv -f {encoding} -t UTF-8 {path} > {path}.new && mv {path}.new {path}"
            )
        text = content.decode(encoding, errors="replace").replace("\0", "")
    found = DotEnv(None, stream=StringIO(text), override=False).dict()
    return {name: value for name, value in found.items() if value is not None}


def _decode_utf8(content: bytes) -> str | None:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def _guess_encoding(content: bytes) -> str:
    """What a Korean Windows or an old editor writes, by the name that iconv has for it, too."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    if b"\0" in content:
        return "UTF-16LE" if content[1::2].count(0) >= content[::2].count(0) else "UTF-16BE"
    try:
        content.decode("cp949")
    except UnicodeDecodeError:
        return "ISO-8859-1"
    return "CP949"


def export(variables: Mapping[str, str]) -> None:
    """Make them part of this process's environment, which its children inherit, where it does not set them already."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def misspelled(names: Collection[str], known: Collection[str]) -> dict[str, str]:
    """Of `names`, those that nobody reads and that resemble a setting's name → that name."""
    left = sorted(name for name in names if name.upper() not in known)
    nearest = {name: difflib.get_close_matches(name.upper(), known, n=1, cutoff=_MIN_SIMILARITY) for name in left}
    return {name: found[0] for name, found in nearest.items() if found}
