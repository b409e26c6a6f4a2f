"""The environment of a command: the locale, and the file `.env`, in whatever encoding an editor has saved it."""

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
"""difflib's ratio, 0 to 1, from which a name counts as misspelled: `GATEWY_PORT` has 0.96, `MKL_NUM_THREADS` 0.87."""


def ensure_utf8() -> None:
    """Restart the process in UTF-8 mode if the locale has another encoding, so that its children use UTF-8 too.

    Output still has the terminal's encoding.
    """
    if not sys.flags.utf8_mode and sys.getfilesystemencoding() != "utf-8":
        # In bytes, because a value may not be decodable in this locale.
        environment = {**os.environb, b"PYTHONUTF8": b"1"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606 - no shell is meant
    encoding = codecs.lookup(locale.getencoding()).name
    # ASCII means that no locale is set; then the terminal most likely uses UTF-8.
    for stream in (sys.stdout, sys.stderr) if encoding not in ("utf-8", "ascii") else ():
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding=encoding, errors="replace")


def read_dotenv(folder: Path, *, guess: bool = False) -> dict[str, str]:
    """Read the variables of a `.env` file.

    Args:
        folder: the folder that it is in.
        guess: guess the encoding if it is not UTF-8, and ignore a file that cannot be read.

    Returns:
        Values by name; empty if there is no file.

    Raises:
        SystemExit: without `guess`, the file cannot be read or is not in UTF-8. The message says what to do.
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
    """Guess among the encodings of Korean Windows and old editors. Returns a name that iconv accepts too."""
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
    """Add variables to this process's environment, which its children inherit, unless they are set already."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def misspelled(names: Collection[str], known: Collection[str]) -> dict[str, str]:
    """Find names that nothing reads and that resemble a known one.

    Args:
        names: names to check, in any case.
        known: names of all settings, in upper case.

    Returns:
        The resembling setting by misspelled name.
    """
    left = sorted(name for name in names if name.upper() not in known)
    nearest = {name: difflib.get_close_matches(name.upper(), known, n=1, cutoff=_MIN_SIMILARITY) for name in left}
    return {name: found[0] for name, found in nearest.items() if found}
