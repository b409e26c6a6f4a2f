"""supervisord: its configuration, its start, and what it is asked over its socket.

Needs no TCP port: the socket lies in the run folder, and only the user may open it.
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
"""Of supervisord's own log."""
START_TIMEOUT_SECONDS = 15.0
CALL_TIMEOUT_SECONDS = 5.0
"""How long supervisord may take to answer; one that is frozen still takes connections."""
CONFIG_FILE = "supervisord.conf"
PID_FILE = "supervisord.pid"
SOCKET_FILE = "supervisor.sock"
PYTHON_VARIABLE = "ONECARD_PYTHON"
SUPERVISOR_GUARD = "keeper"
"""Name of the process that starts supervisord again; no part of the stack."""


@dataclass(frozen=True)
class ProcessState:
    """What supervisord knows of one part."""

    name: str
    state: str
    """supervisord's word: RUNNING, STARTING, BACKOFF, STOPPED, STOPPING, EXITED, FATAL."""
    pid: int
    """0 when it does not run."""
    started: float
    """Unix time of its latest start, in seconds."""
    spawn_error: str = ""
    """Why it cannot even be started; one that was started and has ended has none."""


def render(parts: Sequence[Process], fingerprint: str) -> str:
    """supervisord's configuration. It holds no path: those are in variables, or as seen from the run folder.

    Args:
        fingerprint: changes when any setting does; a running stack with another one is out of date.
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
    keeper = Process(SUPERVISOR_GUARD, (), port=0, stop_seconds=2)
    programs = [_program_section(keeper, "supervision.supervisor_guard")]
    programs += [_program_section(part, f"processes.process_launcher {part.name}") for part in parts]
    return head + "".join(programs) + _stop_groups([keeper, *parts])


def _stop_groups(parts: Sequence[Process]) -> str:
    """A group for each stage: supervisord stops group after group, the last first, and the programs of one at once."""
    return "".join(
        f"""
[group:stage-{stage}]
programs={",".join(part.name for part in parts if part.stop_stage == stage)}
priority={stage}
"""
        for stage in sorted({part.stop_stage for part in parts})
    )


def _program_section(part: Process, module: str) -> str:
    # startsecs: a part that ends within it is started again after 1, 2, 3… s; one that ends later, at once.
    # The parts write their logs themselves: supervisord, which may be stopped or busy, only gets what they say before.
    return f"""
[program:{part.name}]
command=%(ENV_{PYTHON_VARIABLE})s -m onecard_stack.{module}
environment={PROCESS_VARIABLE}="{part.name}"
priority={part.start_order}
autostart=true
autorestart=true
startsecs=2
startretries=1000000
stopsignal=TERM
stopwaitsecs={part.stop_seconds}
stopasgroup=false
killasgroup=true
redirect_stderr=true
stdout_logfile=NONE
"""


def _connect(folder: Path, seconds: float) -> socket.socket:
    """To the socket in `folder`, however long its path is: the kernel takes 107 bytes.

    Raises:
        OSError: nobody listens there.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(seconds)
    try:
        place = os.open(folder, os.O_PATH)
        try:
            connection.connect(f"/proc/self/fd/{place}/{SOCKET_FILE}")
        finally:
            os.close(place)
    except OSError:
        connection.close()
        raise
    return connection


class _Connection(http.client.HTTPConnection):
    """HTTP over a socket file, with a limit for every wait."""

    def __init__(self, folder: Path) -> None:
        super().__init__("localhost")
        self._folder = folder

    def connect(self) -> None:
        """Called by the base class before it sends."""
        self.sock = _connect(self._folder, CALL_TIMEOUT_SECONDS)


def start_command() -> list[str]:
    """What starts supervisord, in the run folder."""
    return list(command_file.python_command("supervisor.supervisord", "-c", CONFIG_FILE))


def _launch(
    command: Sequence[str],
    environment: Mapping[str, str],
    seconds: float = START_TIMEOUT_SECONDS,
    folder: Path | None = None,
) -> None:
    """Run what starts supervisord and returns, in `folder`.

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
        said = next((line for line in lines if line.startswith("Error: ")), lines[-1] if lines else "")
        said = said or f"exit code {done.returncode}, and no reason given"
        raise StackError(f"supervisord does not start: {said}")


def _current_umask() -> int:
    """This process's own; there is no other way to read it."""
    os.umask(now := os.umask(0o077))
    return now


def _spawn_error(spawn_error: str) -> str:
    """supervisord says in the same place that a process ended too soon."""
    return "" if spawn_error.startswith(("Exited too quickly", "Bad exit code")) else spawn_error


class Supervisor:
    """The supervisord of one run folder, running or not."""

    def __init__(self, run_folder: Path) -> None:
        self.run_folder = run_folder
        self.config = run_folder / CONFIG_FILE

    def pid(self) -> int:
        """The process that was started last; 0 if that is not known."""
        try:
            return int((self.run_folder / PID_FILE).read_text())
        except (OSError, ValueError):
            return 0

    def running(self) -> bool:
        """Somebody answers on the socket."""
        try:
            _connect(self.run_folder, 2).close()
        except OSError:
            return False
        return True

    def has_files(self, files: Mapping[str, str]) -> bool:
        """What runs here was started with these `files`, texts by name."""
        found = {name: self.run_folder / name for name in files}
        return files == {name: path.read_text(errors="replace") for name, path in found.items() if path.exists()}

    def start(self, files: Mapping[str, str], environment: Mapping[str, str]) -> None:
        """Start supervisord with all parts, in the background.

        Args:
            files: the configuration, and what the parts run, by name of the file.

        Raises:
            StackError: it does not start.
        """
        (self.run_folder / SOCKET_FILE).unlink(missing_ok=True)
        for name, text in files.items():
            path = self.run_folder / name
            path.touch(mode=log_files.PRIVATE_FILE)
            path.chmod(log_files.PRIVATE_FILE)
            path.write_text(text)
        own = {RUN_FOLDER_VARIABLE: str(self.run_folder), PYTHON_VARIABLE: shlex.quote(sys.executable)}
        marked = {**environment, **own, command_file.UMASK_VARIABLE: f"{_current_umask():o}"}
        marked.pop("HF_TOKEN", None)  # only fetching needs it
        _launch(start_command(), marked, folder=self.run_folder)
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not self.running():
            if time.monotonic() > deadline:
                raise StackError("supervisord does not answer. Its log is 'supervisord.log' in the logs folder.")
            time.sleep(0.05)

    def states(self) -> dict[str, ProcessState]:
        """All parts by name; empty when supervisord does not run or does not answer.

        Raises:
            StackError: it answers, but is about to end.
        """
        try:
            infos = cast("list[dict[str, Any]]", self._call("getAllProcessInfo"))
        except (xmlrpc.client.Error, http.client.HTTPException):
            raise StackError("The stack is stopping. Wait for it, or end it with 'make down'.") from None
        except OSError:
            return {}
        return {
            info["name"]: ProcessState(
                info["name"], info["statename"], int(info["pid"]), float(info["start"]), _spawn_error(info["spawnerr"])
            )
            for info in infos
        }

    def start_stopped(self) -> None:
        """Start the parts that somebody has stopped."""
        with suppress(OSError, xmlrpc.client.Error, http.client.HTTPException):
            self._call("startAllProcesses", False)

    def shut_down(self, seconds: float) -> bool:
        """Stop all parts, stage by stage, then supervisord. False when that takes longer than `seconds`."""
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
