"""What each part runs, in a file beside supervisord's configuration.

supervisord's own format has no way to write some paths: it takes ` ;` for a comment and expands `%`.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # each part reads this file before it starts, and needs no settings for it
    from onecard_stack.processes.process_table import Process

COMMANDS_FILE = "parts.json"
MAX_SCRATCH_PATH_BYTES = 64
"""vLLM's sockets are called `llm/` and 36 characters more."""
UMASK_VARIABLE = "ONECARD_UMASK"
"""Environment variable with the umask, in octal, of whoever started the stack; supervisord has one of its own."""


def scratch_folder(run_folder: Path) -> Path:
    """Of temporary files: in the run folder, or elsewhere if that is too long a path for a socket (107 bytes)."""
    own = run_folder / "tmp"
    if len(os.fsencode(own)) <= MAX_SCRATCH_PATH_BYTES:
        return own
    digest = hashlib.blake2b(os.fsencode(run_folder), digest_size=6).hexdigest()
    return Path(tempfile.gettempdir()) / f"onecard-{os.getuid()}-{digest}"


@dataclass(frozen=True)
class ProcessCommand:
    """How a part is started."""

    argv: tuple[str, ...]
    environment: dict[str, str]
    """On top of what it inherits. Holds no secrets."""
    directory: str
    scratch: str | None = None
    """Folder for its temporary files, which is emptied before it starts."""

    def exec(self, more: Mapping[str, str]) -> None:
        """Run it in place of this process, with `more` variables."""
        os.chdir(self.directory)
        os.umask(int(os.environ[UMASK_VARIABLE], 8))
        environment = {**os.environ, **self.environment, **_scratch_variables(self.scratch), **more}
        os.execve(self.argv[0], self.argv, environment)  # noqa: S606 - no shell is meant


def _scratch_variables(path: str | None) -> dict[str, str]:
    """An empty folder, as the variable that names it; nothing where that folder is somebody else's."""
    if path is None:
        return {}
    folder = Path(path)
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    if folder.parent.stat().st_uid != os.getuid():
        return {}
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    return {"TMPDIR": path}


def render(parts: Sequence["Process"], environment: Mapping[str, str], scratch: Path) -> str:
    """The file's text.

    Args:
        environment: what the parts will inherit; a part's defaults give way to it. Its values are not written.
        scratch: folder for those that leave temporary files behind when they are killed.
    """
    commands = {}
    for part in parts:
        defaults = {name: value for name, value in part.defaults.items() if not environment.get(name)}
        own = str(scratch / part.name) if part.needs_scratch else None
        commands[part.name] = asdict(ProcessCommand(part.argv, {**defaults, **part.environment}, str(Path.cwd()), own))
    return json.dumps(commands, indent=1) + "\n"


def read_command(run_folder: Path, name: str) -> ProcessCommand:
    """The command of one part.

    Raises:
        OSError, ValueError, KeyError, TypeError: the file is not there, or is not ours.
    """
    fields = json.loads((run_folder / COMMANDS_FILE).read_text())[name]
    return ProcessCommand(**{**fields, "argv": tuple(fields["argv"])})


def python_command(module: str, *arguments: str) -> tuple[str, ...]:
    """A command that runs a module."""
    return (sys.executable, "-m", module, *arguments)
