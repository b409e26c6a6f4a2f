"""Configures and starts supervisord, and calls it over its socket.

Needs no TCP port: the socket is in the run folder, and only this user can open it.
"""

import http.client
import os
import shlex
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from supervisor.xmlrpc import SupervisorTransport

from onecard_stack.errors import StackError
from onecard_stack.processes import command_file, log_files
from onecard_stack.processes.orphans import PROCESS_VARIABLE, RUN_FOLDER_VARIABLE
from onecard_stack.processes.process_table import Process

MAX_LOG_BYTES = 10_000_000
"""Limit of supervisord's own log."""
START_TIMEOUT_SECONDS = 15.0
CALL_TIMEOUT_SECONDS = 5.0
"""How long a call may take. A frozen supervisord still accepts connections."""
CONFIG_FILE = "supervisord.conf"
PID_FILE = "supervisord.pid"
SOCKET_FILE = "supervisor.sock"
PYTHON_VARIABLE = "ONECARD_PYTHON"
_FOREIGN_KEYS = ("HF_TOKEN", "RUNPOD_API_KEY")
"""Keys that no process of the stack needs: only fetching needs the hub's, and only a pod's watchdog RunPod's."""
SUPERVISOR_GUARD = "keeper"
"""Name in supervisord of the process that restarts supervisord. It is not in the process table."""


@dataclass(frozen=True)
class ProcessState:
    """What supervisord reports about one process."""

    name: str
    state: str
    """supervisord's name of it: RUNNING, STARTING, BACKOFF, STOPPED, STOPPING, EXITED, FATAL."""
    pid: int
    """0 if it does not run."""
    started: float
    """Unix time of its latest start, in seconds."""
    spawn_error: str = ""
    """Why it could not be started. Empty if it was started and has ended since."""


def render(processes: Sequence[Process], fingerprint: str) -> str:
    """Render supervisord's configuration. Paths in it are environment variables or relative to the run folder.

    Args:
        processes: the process table.
        fingerprint: hashes of settings and code. A running stack with others is out of date.

    Returns:
        The text of `supervisord.conf`.
    """
    head = f"""; Written by 'onecard up'; settings {fingerprint}.
[supervisord]
logfile=../logs/supervisord.log
logfile_maxbytes={MAX_LOG_BYTES}
logfile_backups=1
pidfile={PID_FILE}
umask=077

[unix_http_server]
file=/proc/self/cwd/{SOCKET_FILE}
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""
    guard = Process(SUPERVISOR_GUARD, (), port=0, stop_seconds=2)
    programs = [_program_section(guard, "supervision.supervisor_guard")]
    programs += [_program_section(process, f"processes.process_launcher {process.name}") for process in processes]
    return head + "".join(programs) + _stop_groups([guard, *processes])


def _stop_groups(processes: Sequence[Process]) -> str:
    """One group per stage. supervisord stops groups in order, last first, and the programs of a group together."""
    return "".join(
        f"""
[group:stage-{stage}]
programs={",".join(process.name for process in processes if process.stop_stage == stage)}
priority={stage}
"""
        for stage in sorted({process.stop_stage for process in processes})
    )


def _program_section(process: Process, module: str) -> str:
    # startsecs: a process that ends earlier is restarted after 1, 2, 3… s; one that ends later, at once.
    # The processes write their own logs, because supervisord may be stopped or busy. It only gets earlier output.
    return f"""
[program:{process.name}]
command=%(ENV_{PYTHON_VARIABLE})s -m onecard_stack.{module}
environment={PROCESS_VARIABLE}="{process.name}"
priority={process.start_order}
autostart=true
autorestart=true
startsecs=2
startretries=1000000
stopsignal=TERM
stopwaitsecs={process.stop_seconds}
stopasgroup=false
killasgroup=true
redirect_stderr=true
stdout_logfile=NONE
"""


def _connect(folder: Path, seconds: float) -> socket.socket:
    """Connect to the socket in `folder`, also where its path exceeds the kernel's limit of 107 bytes.

    Returns:
        The connection, with a timeout of `seconds` for every wait.

    Raises:
        OSError: no process listens on it.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(seconds)
    try:
        folder_fd = os.open(folder, os.O_PATH)
        try:
            connection.connect(f"/proc/self/fd/{folder_fd}/{SOCKET_FILE}")
        finally:
            os.close(folder_fd)
    except OSError:
        connection.close()
        raise
    return connection


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket, with a timeout for every wait."""

    def __init__(self, folder: Path) -> None:
        super().__init__("localhost")
        self._folder = folder

    def connect(self) -> None:
        """Open the socket. The base class calls this before it sends."""
        self.sock = _connect(self._folder, CALL_TIMEOUT_SECONDS)


def start_command() -> list[str]:
    """The command that starts supervisord. It has to run in the run folder."""
    return list(command_file.python_command("supervisor.supervisord", "-c", CONFIG_FILE))


def _launch(
    command: Sequence[str],
    environment: Mapping[str, str],
    seconds: float = START_TIMEOUT_SECONDS,
    folder: Path | None = None,
) -> None:
    """Run the command that starts supervisord in the background, and wait until it returns.

    Raises:
        StackError: it fails, or does not return within `seconds`.
    """
    try:
        done = subprocess.run(  # noqa: S603
            command, env=environment, cwd=folder, capture_output=True, text=True, timeout=seconds, umask=0o077
        )
    except subprocess.TimeoutExpired:
        raise StackError(f"supervisord does not start within {seconds:g} s. Try again when less runs here.") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        message = next((line for line in lines if line.startswith("Error: ")), lines[-1] if lines else "")
        message = message or f"exit code {done.returncode}, and no reason given"
        raise StackError(f"supervisord does not start: {message}")


def _current_umask() -> int:
    """This process's umask. It can only be read by setting it."""
    os.umask(now := os.umask(0o077))
    return now


def _spawn_error(spawn_error: str) -> str:
    """Drop the messages about a process that ended, which supervisord reports in the same field."""
    return "" if spawn_error.startswith(("Exited too quickly", "Bad exit code")) else spawn_error


class Supervisor:
    """The supervisord of one run folder, running or not."""

    def __init__(self, run_folder: Path) -> None:
        self.run_folder = run_folder
        self.config = run_folder / CONFIG_FILE

    def pid(self) -> int:
        """Process id of the supervisord that was started last; 0 if it is unknown."""
        try:
            return int((self.run_folder / PID_FILE).read_text())
        except (OSError, ValueError):
            return 0

    def running(self) -> bool:
        """Whether something accepts connections on the socket."""
        try:
            _connect(self.run_folder, 2).close()
        except OSError:
            return False
        return True

    def has_files(self, files: Mapping[str, str]) -> bool:
        """Check whether the stack was started with these files.

        Args:
            files: text of each file, by its name in the run folder.

        Returns:
            Whether all of them are there with this text.
        """
        paths = {name: self.run_folder / name for name in files}
        return files == {name: path.read_text(errors="replace") for name, path in paths.items() if path.exists()}

    def start(self, files: Mapping[str, str], environment: Mapping[str, str]) -> None:
        """Start supervisord with all processes, in the background.

        Args:
            files: text of each file to write first, by its name in the run folder: supervisord's configuration, the
                commands of the processes, Redis' password.
            environment: variables that the processes inherit.

        Raises:
            StackError: it does not start, or does not answer within `START_TIMEOUT_SECONDS`.
        """
        (self.run_folder / SOCKET_FILE).unlink(missing_ok=True)
        for name, text in files.items():
            path = self.run_folder / name
            path.touch(mode=log_files.PRIVATE_FILE)
            path.chmod(log_files.PRIVATE_FILE)
            path.write_text(text)
        paths = {RUN_FOLDER_VARIABLE: str(self.run_folder), PYTHON_VARIABLE: shlex.quote(sys.executable)}
        own = {name: value for name, value in environment.items() if name.upper() not in _FOREIGN_KEYS}
        inherited = {**own, **paths, command_file.UMASK_VARIABLE: f"{_current_umask():o}"}
        _launch(start_command(), inherited, folder=self.run_folder)
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not self.running():
            if time.monotonic() > deadline:
                raise StackError("supervisord does not answer. Its log is 'supervisord.log' in the logs folder.")
            time.sleep(0.05)

    def states(self) -> dict[str, ProcessState]:
        """Ask supervisord for the states of all processes.

        Returns:
            States by name; empty if supervisord does not run or does not answer.

        Raises:
            StackError: it answers that it is shutting down.
        """
        try:
            replies = cast("list[dict[str, Any]]", self._call("getAllProcessInfo"))
        except (xmlrpc.client.Error, http.client.HTTPException):
            raise StackError("The stack is stopping. Wait for it, or end it with 'make down'.") from None
        except OSError:
            return {}
        return {
            reply["name"]: ProcessState(
                reply["name"],
                reply["statename"],
                int(reply["pid"]),
                float(reply["start"]),
                _spawn_error(reply["spawnerr"]),
            )
            for reply in replies
        }

    def start_stopped(self) -> None:
        """Start the processes that were stopped one by one."""
        with suppress(OSError, xmlrpc.client.Error, http.client.HTTPException):
            self._call("startAllProcesses", False)

    def shut_down(self, seconds: float) -> bool:
        """Stop all processes, stage by stage, then supervisord.

        Args:
            seconds: how long to wait for its end.

        Returns:
            False if it takes longer, or does not answer.
        """
        try:
            self._call("shutdown")
        except (xmlrpc.client.Error, http.client.HTTPException):
            pass  # it is stopping already
        except OSError:
            return not self.running()
        deadline = time.monotonic() + seconds
        while self.running():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def _call(self, method: str, *arguments: Any) -> Any:
        transport = SupervisorTransport(None, None, "unix://here")
        transport._get_connection = lambda: _Connection(self.run_folder)  # the transport's own waits without end
        proxy = xmlrpc.client.ServerProxy("http://localhost", transport=transport)
        try:
            return getattr(proxy.supervisor, method)(*arguments)
        finally:
            transport.close()
