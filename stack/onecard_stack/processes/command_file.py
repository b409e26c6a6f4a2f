"""The command of each process, in a file beside supervisord's configuration.

supervisord's own format cannot express some paths: it reads ` ;` as a comment and expands `%`.
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
from urllib.parse import urlsplit

if TYPE_CHECKING:  # every process imports this module before it starts, and needs no settings there
    from onecard_stack.processes.process_table import Process

COMMANDS_FILE = "parts.json"
MAX_SCRATCH_PATH_BYTES = 64
"""Leaves room for the names of vLLM's sockets: `llm/` and 36 characters."""
UMASK_VARIABLE = "ONECARD_UMASK"
"""Environment variable with the umask, in octal, of the user who started the stack. supervisord has its own."""


def scratch_folder(run_folder: Path) -> Path:
    """Choose the folder for temporary files.

    Args:
        run_folder: the stack's run folder.

    Returns:
        `tmp` in the run folder. If sockets in it would exceed the kernel's limit of 107 bytes, a folder in the
        system's temporary folder with a name derived from the run folder.
    """
    own = run_folder / "tmp"
    if len(os.fsencode(own)) <= MAX_SCRATCH_PATH_BYTES:
        return own
    digest = hashlib.blake2b(os.fsencode(run_folder), digest_size=6).hexdigest()
    return Path(tempfile.gettempdir()) / f"onecard-{os.getuid()}-{digest}"


@dataclass(frozen=True)
class ProcessCommand:
    """How a process is started."""

    argv: tuple[str, ...]
    environment: dict[str, str]
    """Added to the inherited environment. Holds no secrets."""
    directory: str
    scratch: str | None = None
    """Folder for its temporary files, emptied before it starts; None: the system's."""
    address: tuple[str, int] | None = None
    """Host and port under which this machine reaches its health routes; None if it has none."""

    def exec(self, more: Mapping[str, str]) -> None:
        """Replace this process with the command (execve).

        Args:
            more: variables that override all others.
        """
        os.chdir(self.directory)
        os.umask(int(os.environ[UMASK_VARIABLE], 8))
        environment = {**os.environ, **self.environment, **_scratch_variables(self.scratch), **more}
        os.execve(self.argv[0], self.argv, environment)  # noqa: S606 - no shell is meant


def _scratch_variables(path: str | None) -> dict[str, str]:
    """Make an empty folder and return the variable that names it. Empty if another user owns its parent."""
    if path is None:
        return {}
    folder = Path(path)
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    if folder.parent.stat().st_uid != os.getuid():
        return {}
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    return {"TMPDIR": path}


def render(processes: Sequence["Process"], environment: Mapping[str, str], scratch: Path) -> str:
    """Render the file with all commands.

    Args:
        processes: the process table.
        environment: variables that the processes will inherit. They override a process's defaults; their values are
            not written.
        scratch: parent of the folders for processes that leave temporary files behind when they are killed.

    Returns:
        JSON: the fields of a `ProcessCommand` by name of the process.
    """
    commands = {}
    for process in processes:
        defaults = {name: value for name, value in process.defaults.items() if not environment.get(name)}
        folder = str(scratch / process.name) if process.needs_scratch else None
        commands[process.name] = asdict(
            ProcessCommand(
                process.argv, {**defaults, **process.environment}, str(Path.cwd()), folder, _address(process)
            )
        )
    return json.dumps(commands, indent=1) + "\n"


def _address(process: "Process") -> tuple[str, int] | None:
    if not process.port or process.health is None:
        return None
    host = urlsplit(process.url).hostname
    return None if host is None else (host, process.port)


def read_addresses(run_folder: Path) -> dict[str, tuple[str, int]]:
    """Read where the processes have their health routes.

    Args:
        run_folder: the stack's run folder.

    Returns:
        Host and port by name, of those that have any.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not JSON.
    """
    commands = json.loads((run_folder / COMMANDS_FILE).read_text())
    return {name: (one["address"][0], one["address"][1]) for name, one in commands.items() if one.get("address")}


def read_command(run_folder: Path, name: str) -> ProcessCommand:
    """Read the command of one process.

    Args:
        run_folder: the stack's run folder.
        name: name of the process.

    Returns:
        Its command.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not JSON.
        KeyError: it has no process of this name.
        TypeError: it has other fields.
    """
    fields = json.loads((run_folder / COMMANDS_FILE).read_text())[name]
    return ProcessCommand(**{**fields, "argv": tuple(fields["argv"])})


def python_command(module: str, *arguments: str) -> tuple[str, ...]:
    """Make the command that runs `module` with this Python."""
    return (sys.executable, "-m", module, *arguments)
