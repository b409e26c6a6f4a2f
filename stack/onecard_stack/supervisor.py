"""supervisord: its configuration, its start, and what it is asked over its socket.

Needs no TCP port: the socket lies in the run folder, and only the user may open it.
"""

import hashlib
import http.client
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from supervisor.xmlrpc import SupervisorTransport

from onecard_stack.errors import StackError
from onecard_stack.leftovers import PART_VARIABLE, RUN_VARIABLE
from onecard_stack.table import Process

LOG_BYTES = 10_000_000
LOG_BACKUPS = 3
SOCKET_PATH_MAX = 100
"""The kernel takes 107 bytes, and supervisord adds a suffix while it binds."""
START_SECONDS = 15.0
CALL_SECONDS = 5.0
"""How long supervisord may take to answer; one that is frozen still takes connections."""
CONFIG = "supervisord.conf"
PID_FILE = "supervisord.pid"
KEEPER = "keeper"
"""Name of the process that starts supervisord again; no part of the stack."""


@dataclass(frozen=True)
class State:
    """What supervisord knows of one part."""

    name: str
    state: str
    """supervisord's word: RUNNING, STARTING, BACKOFF, STOPPED, STOPPING, EXITED, FATAL."""
    pid: int
    """0 when it does not run."""
    started: float
    """Unix time of its latest start, in seconds."""


def socket_path(run_folder: Path) -> Path:
    """The socket: in the run folder, or, where that path is too long for a socket, in a private folder elsewhere."""
    path = run_folder / "supervisor.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_MAX:
        return path
    digest = hashlib.blake2b(os.fsencode(run_folder), digest_size=6).hexdigest()
    return Path(tempfile.gettempdir()) / f"onecard-{os.getuid()}-{digest}" / "supervisor.sock"


def render(
    parts: Sequence[Process], run_folder: Path, log_folder: Path, environment: Mapping[str, str], fingerprint: str
) -> str:
    """supervisord's configuration.

    Args:
        environment: what the parts will inherit; a part's defaults give way to it. Its values are not written.
        fingerprint: changes when any setting does; a running stack with another one is out of date.
    """
    head = f"""; Written by 'onecard up'; settings {fingerprint}.
[supervisord]
logfile={_escape(str(log_folder / "supervisord.log"))}
logfile_maxbytes={LOG_BYTES}
logfile_backups=1
pidfile={_escape(str(run_folder / PID_FILE))}
directory={_escape(str(Path.cwd()))}

[unix_http_server]
file={_escape(str(socket_path(run_folder)))}
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""
    keeper = Process(KEEPER, _python("keeper", str(run_folder / CONFIG)), port=0, stop_seconds=2)
    programs = [_program(keeper, keeper.argv, log_folder, environment)]
    programs += [_program(part, _python("part", part.name, *part.argv), log_folder, environment) for part in parts]
    return head + "".join(programs) + _stages([keeper, *parts])


def _stages(parts: Sequence[Process]) -> str:
    """A group for each stage: supervisord stops group after group, the last first, and the programs of one at once."""
    return "".join(
        f"""
[group:stage-{stage}]
programs={",".join(part.name for part in parts if part.stage == stage)}
priority={stage}
"""
        for stage in sorted({part.stage for part in parts})
    )


def _python(module: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", f"onecard_stack.{module}", *arguments)


def _program(part: Process, argv: Sequence[str], log_folder: Path, environment: Mapping[str, str]) -> str:
    defaults = {name: value for name, value in part.defaults.items() if not environment.get(name)}
    variables = {**defaults, **part.environment, PART_VARIABLE: part.name}
    pairs = ",".join(f'{name}="{_escape(value)}"' for name, value in variables.items())
    # startsecs: a part that ends within it is started again after 1, 2, 3… s; one that ends later, at once.
    return f"""
[program:{part.name}]
command={_escape(shlex.join(argv))}
environment={pairs}
priority={part.order}
autostart=true
autorestart=true
startsecs=2
startretries=1000000
stopsignal=TERM
stopwaitsecs={part.stop_seconds}
stopasgroup=false
killasgroup=true
redirect_stderr=true
stdout_logfile={_escape(str(log_folder / f"{part.name}.log"))}
stdout_logfile_maxbytes={LOG_BYTES}
stdout_logfile_backups={LOG_BACKUPS}
"""


def _escape(text: str) -> str:
    """supervisord expands `%(…)s` in every value."""
    return text.replace("%", "%%")


class _Connection(http.client.HTTPConnection):
    """HTTP over a socket file, with a limit for every wait."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        """Called by the base class before it sends."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(CALL_SECONDS)
        self.sock.connect(str(self._path))


def _launch(command: Sequence[str], environment: Mapping[str, str], seconds: float = START_SECONDS) -> None:
    """Run what starts supervisord and returns.

    Raises:
        StackError: it fails, or does not return within `seconds`.
    """
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise StackError(f"supervisord does not start within {seconds:g} s. Try again when less runs here.") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}, and no reason given"]
        raise StackError(f"supervisord does not start: {said[-1]}")


class Supervisor:
    """The supervisord of one run folder, running or not."""

    def __init__(self, run_folder: Path) -> None:
        self.run_folder = run_folder
        self.config = run_folder / CONFIG
        self._socket = socket_path(run_folder)

    def pid(self) -> int:
        """The process that was started last; 0 if that is not known."""
        try:
            return int((self.run_folder / PID_FILE).read_text())
        except (OSError, ValueError):
            return 0

    def running(self) -> bool:
        """Somebody answers on the socket."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(2)
            try:
                probe.connect(str(self._socket))
            except OSError:
                return False
        return True

    def start(self, config: str, environment: Mapping[str, str]) -> None:
        """Start supervisord with all parts, in the background.

        Raises:
            StackError: it does not start.
        """
        self._socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._socket.parent.stat().st_uid != os.getuid():
            raise StackError(f"{self._socket.parent} belongs to another user. Set TMPDIR to a folder of your own.")
        self._socket.unlink(missing_ok=True)
        self.config.touch(mode=0o600)
        self.config.write_text(config)
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(self.config)]
        marked = {**environment, RUN_VARIABLE: str(self.run_folder)}
        marked.pop("HF_TOKEN", None)  # only fetching needs it
        _launch(command, marked)
        deadline = time.monotonic() + START_SECONDS
        while not self.running():
            if time.monotonic() > deadline:
                raise StackError("supervisord does not answer. Its log is 'supervisord.log' in the logs folder.")
            time.sleep(0.05)

    def states(self) -> dict[str, State]:
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
            info["name"]: State(info["name"], info["statename"], int(info["pid"]), float(info["start"]))
            for info in infos
        }

    def revive(self) -> None:
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
        transport = SupervisorTransport(None, None, f"unix://{self._socket}")
        transport._get_connection = lambda: _Connection(self._socket)  # the transport's own waits without end
        proxy = xmlrpc.client.ServerProxy("http://localhost", transport=transport)
        try:
            return getattr(proxy.supervisor, method)(*arguments)
        finally:
            transport.close()
