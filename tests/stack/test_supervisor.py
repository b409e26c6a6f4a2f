"""supervisord's configuration, as supervisord itself reads it, and small stacks that run."""

import configparser
import json
import os
import signal
import socket
import sys
import threading
import time
import xmlrpc.client
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import psutil
import pytest
from rich.console import Console
from supervisor.options import ServerOptions

from onecard_stack.commands import stack_status
from onecard_stack.errors import StackError
from onecard_stack.processes import command_file, log_files, orphans
from onecard_stack.processes.process_table import Process
from onecard_stack.settings import StackSettings
from onecard_stack.supervision import stopping, supervisor, supervisor_guard
from onecard_stack.supervision.startup_monitor import SILENT_SECONDS, StartupMonitor
from onecard_stack.supervision.stopping import GRACE_SECONDS, grace_seconds
from onecard_stack.supervision.supervisor import ProcessState, Supervisor, render

PARTS = [
    Process("one", ("/bin/echo", "100%", "a b"), 1, environment={"X": "50%", "Y": "a,b='c' d"}, defaults={"D": "1"}),
    Process("two", ("/bin/true",), 2, start_order=5, stop_stage=1, stop_seconds=7),
    Process("three", ("/bin/true",), 3, start_order=4, stop_stage=1),
]
SAY = "import json, os, sys; print(json.dumps([sys.argv[1:], os.environ['X'], os.getcwd()])); sys.stdout.flush()"
WAIT = "; import time; time.sleep(100)"


def parsed(text: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser()
    parser.read_string(text)
    return parser


def files(parts: list[Process], folder: Path, environment: dict[str, str] | None = None) -> dict[str, str]:
    """What a stack of these parts is started with."""
    commands = command_file.render(parts, environment or {}, command_file.scratch_folder(folder / "run"))
    return {supervisor.CONFIG_FILE: render(parts, "abc"), command_file.COMMANDS_FILE: commands}


@contextmanager
def running(parts: list[Process], home: Path) -> Iterator[Supervisor]:
    """A real supervisord, with real parts."""
    one = Supervisor(home / "run")
    one.run_folder.mkdir(parents=True, exist_ok=True)
    log_files.make_private(home / "logs")
    try:
        one.start(files(parts, home), os.environ)
        yield one
    finally:
        stopping.stop(one.run_folder)


def wait_for(true: Callable[[], bool], what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)


def text_of(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_supervisord_understands_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages are groups, and each part has its time to stop."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    monkeypatch.setenv(supervisor.PYTHON_VARIABLE, "/bin/python")
    Path(supervisor.CONFIG_FILE).write_text(render(PARTS, "abc"))
    options = ServerOptions()
    options.realize(["-c", supervisor.CONFIG_FILE], doc="")
    stages = [sorted(group.process_configs) for group in sorted(options.process_group_configs)]
    assert [[program.name for program in stage] for stage in stages] == [["keeper", "one"], ["three", "two"]]
    programs = {program.name: program for stage in stages for program in stage}
    assert programs["two"].command == "/bin/python -m onecard_stack.processes.process_launcher two"
    assert programs["two"].stopwaitsecs == 7


@pytest.mark.parametrize(
    "name",
    ["plain", "a%b", "50%(x)s", 'say "a"', "it's", "a ;b", "c #d", "국물 가게", "x" * 120],
    ids=["plain", "percent", "expansion", "quote", "apostrophe", "semicolon", "hash", "hangul", "long"],
)
def test_any_path_will_do(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The home, the directory and Python itself may lie in it; arguments and variables reach the part as they are."""
    folder = tmp_path / name
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "executable", str(python))
    part = Process("one", (str(python), "-c", SAY + WAIT, "100%", f"{name} ;"), 1, environment={"X": f"{name} %s"})
    log = folder / "home" / "logs" / "one.log"
    with running([part], folder / "home") as one:
        wait_for(lambda: text_of(log).endswith("\n"), f"the part says something: {text_of(log)}")
        assert json.loads(text_of(log)) == [["100%", f"{name} ;"], f"{name} %s", str(folder)]
        assert one.states()["one"].pid > 0
    assert not one.running()
    assert not list((folder / "home" / "run").glob("*.sock*"))


def test_only_a_private_socket(tmp_path: Path) -> None:
    """No TCP port, and a socket that only its owner may open."""
    config = parsed(render(PARTS, "abc"))
    assert "inet_http_server" not in config
    assert config["unix_http_server"]["chmod"] == "0700"


def test_a_killed_part_always_comes_back(tmp_path: Path) -> None:
    """Parts are restarted whatever their exit code was, and practically for ever."""
    config = parsed(render(PARTS, "abc"))
    for name in ("one", "two", "keeper"):
        program = config[f"program:{name}"]
        assert program["autorestart"] == "true"
        assert int(program["startretries"]) >= 100_000
        assert program["killasgroup"] == "true"


def test_environment_wins_over_defaults_and_is_not_written(tmp_path: Path) -> None:
    """A default gives way to a variable that is set; the values set stay out of the files."""
    assert '"D": "1"' in files(PARTS, tmp_path)[command_file.COMMANDS_FILE]
    text = "".join(files(PARTS, tmp_path, {"D": "from-outside", "API_KEY": "a-very-secret-key"}).values())
    assert '"D"' not in text
    assert "from-outside" not in text
    assert "a-very-secret-key" not in text


def test_a_part_that_cannot_be_started_is_said_at_once(tmp_path: Path) -> None:
    """supervisord's own reason, in place of a wait to the end of START_SECONDS."""
    part = Process("one", ("/bin/true",), 1)
    with running([part], tmp_path) as one:
        one.shut_down(20)
        environment = {**os.environ, supervisor.PYTHON_VARIABLE: "/no/such/python", orphans.RUN_FOLDER_VARIABLE: "x"}
        supervisor._launch(supervisor.start_command(), environment, folder=one.run_folder)
        watch = StartupMonitor([part], tmp_path / "logs", {})
        wait_for(lambda: "one" in one.states(), "supervisord answers")
        watch.update(one.states(), {"one": False}, 0)
        with pytest.raises(StackError, match=r"one cannot be started: .*/no/such/python"):
            watch.raise_for_failure()


def test_a_supervisord_that_gives_no_answer_once_has_not_ended(tmp_path: Path) -> None:
    """A busy machine delays it, and its guard restarts one that was killed. After ten seconds it has ended."""
    here = {"one": ProcessState("one", "RUNNING", pid=1, started=1)}
    watch = StartupMonitor([Process("one", ("/bin/true",), 1)], tmp_path, {})
    watch.update(here, {"one": False}, 100)
    for now in (101, 101 + SILENT_SECONDS - 1):
        assert watch.update({}, {"one": False}, now)["one"].state == "starting"
        watch.raise_for_failure()
    watch.update(here, {"one": False}, 120)
    watch.update({}, {"one": False}, 121)
    watch.raise_for_failure()
    watch.update({}, {"one": False}, 121 + SILENT_SECONDS)
    with pytest.raises(StackError, match="was stopped while it started"):
        watch.raise_for_failure()


def test_what_a_part_makes_has_its_starter_s_umask_and_its_log_is_private(tmp_path: Path) -> None:
    """umask 077 means nobody else, 022 that others may read; logs and their folder are nobody else's in either case."""
    program = "open('made', 'w').close(); print('done', flush=True)" + WAIT
    for umask, mode in ((0o077, 0o600), (0o022, 0o644)):
        home = tmp_path / f"{umask:o}"
        home.mkdir()
        part = Process("one", (sys.executable, "-c", f"import os; os.chdir({str(home)!r}); {program}"), 1)
        before = os.umask(umask)
        try:
            with running([part], home):
                wait_for(lambda home=home: text_of(home / "logs" / "one.log") != "", "the part says something")  # type: ignore[misc]
        finally:
            os.umask(before)
        assert (home / "made").stat().st_mode & 0o777 == mode
        logs = list((home / "logs").iterdir())
        assert {path.name for path in logs} >= {"one.log", "supervisord.log"}
        assert {path.stat().st_mode & 0o077 for path in [*logs, home / "logs"]} == {0}


def test_logs_that_everybody_could_read_are_closed(tmp_path: Path) -> None:
    """As an earlier version left them."""
    (tmp_path / "one.log").touch(0o644)
    (tmp_path / "one.log").chmod(0o644)
    log_files.make_private(tmp_path)
    assert (tmp_path / "one.log").stat().st_mode & 0o777 == 0o600


def test_logs_are_bounded_and_writers_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that has grown large becomes a backup; a few backups are kept, and lines after that are in the log."""
    monkeypatch.setattr(log_files, "MAX_LOG_BYTES", 1000)
    log = tmp_path / "one.log"
    with log.open("ab", buffering=0) as writer:
        for number in range(6):
            writer.write(b"%d" % number * 2000 + b"\n")
            log_files.rotate(tmp_path)
        writer.write(b"after\n")
        log_files.rotate(tmp_path)
    assert log.read_bytes() == b"after\n"
    assert [(tmp_path / f"one.log.{n}").read_bytes()[:1] for n in (1, 2, 3)] == [b"5", b"4", b"3"]
    assert {path.name for path in tmp_path.iterdir()} == {"one.log", "one.log.1", "one.log.2", "one.log.3"}
    assert {path.stat().st_mode & 0o077 for path in tmp_path.glob("*.log.*")} == {0}


def test_the_keeper_keeps_logs_small(tmp_path: Path) -> None:
    """Of a stack that runs."""
    part = Process("one", (sys.executable, "-c", f"print('x' * {log_files.MAX_LOG_BYTES}, flush=True)" + WAIT), 1)
    with running([part], tmp_path):
        backup = tmp_path / "logs" / "one.log.1"
        wait_for(lambda: backup.exists() and backup.stat().st_size > log_files.MAX_LOG_BYTES, "a backup is made")
        wait_for(lambda: (tmp_path / "logs" / "one.log").stat().st_size == 0, "the log is empty")


def test_a_stopped_supervisord_stops_no_part(tmp_path: Path) -> None:
    """What a part writes goes to its log by itself: 20 MB of it while supervisord is frozen, and none waits."""
    program = f"""import itertools, os, pathlib, time
go, done = pathlib.Path({str(tmp_path)!r}, 'go'), pathlib.Path({str(tmp_path)!r}, 'done')
print('here', flush=True)
while not go.exists(): time.sleep(0.05)
for _ in range(20_000): print('x' * 1000, flush=True)
done.touch()
time.sleep(100)"""
    with running([Process("one", (sys.executable, "-c", program), 1)], tmp_path) as one:
        wait_for(lambda: text_of(tmp_path / "logs" / "one.log") == "here\n", "the part runs")
        os.kill(one.pid(), signal.SIGSTOP)
        try:
            (tmp_path / "go").touch()
            wait_for((tmp_path / "done").exists, "the part has written all of it")
        finally:
            os.kill(one.pid(), signal.SIGCONT)


def test_temporary_files_of_a_killed_part_go(tmp_path: Path) -> None:
    """It has a folder of its own for them, which is empty when it starts anew, and gone when the stack is."""
    program = (
        "import os, tempfile; f = tempfile.gettempdir(); print(f, os.listdir(f), flush=True); open(f + '/x', 'w')"
        + WAIT
    )
    log = tmp_path / "logs" / "one.log"
    with running([Process("one", (sys.executable, "-c", program), 1, needs_scratch=True)], tmp_path) as one:
        wait_for(lambda: text_of(log).count("\n") == 1, "the part runs")
        os.kill(one.states()["one"].pid, signal.SIGKILL)
        wait_for(lambda: text_of(log).count("\n") == 2, "it runs again")
    folder = command_file.scratch_folder(tmp_path / "run") / "one"
    assert text_of(log) == f"{folder} []\n" * 2
    assert not folder.exists()


def test_the_scratch_folder_of_a_long_path_is_elsewhere(tmp_path: Path) -> None:
    """The kernel's limit for socket paths is no limit for checkouts."""
    short, long = Path("/srv/x/run"), tmp_path / ("deep/" * 30) / "run"
    assert command_file.scratch_folder(short).parent == short
    assert len(str(command_file.scratch_folder(long))) + len("/llm/") + 36 < 107
    assert command_file.scratch_folder(long) != command_file.scratch_folder(long / "other")


def read_request(connection: socket.socket) -> None:
    """To the end of its body: who closes with a part of it unread resets the connection, and the answer is lost."""
    request = b""
    while not request.endswith(b"</methodCall>\n"):
        request += connection.recv(10_000)


@contextmanager
def listening(folder: Path, answer: bytes | None) -> Iterator[Supervisor]:
    """Something that takes connections on the socket, and gives each the `answer`, or none."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / supervisor.SOCKET_FILE))
        server.listen()

        def serve() -> None:
            try:
                while answer is not None:
                    connection, _ = server.accept()
                    with connection:
                        read_request(connection)
                        connection.sendall(answer)
            except OSError:
                return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield Supervisor(folder)
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def fault_answer() -> bytes:
    """What supervisord answers to everything once it has been told to end."""
    fault = xmlrpc.client.dumps(xmlrpc.client.Fault(6, "SHUTDOWN_STATE"), methodresponse=True).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(fault) + fault


@pytest.mark.parametrize("answer", [fault_answer(), b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"])
def test_a_stopping_supervisord_is_said_to_be_stopping(tmp_path: Path, answer: bytes) -> None:
    """One line in place of a traceback."""
    with listening(tmp_path, answer) as one, pytest.raises(StackError, match="is stopping"):
        one.states()


def test_a_frozen_supervisord_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes connections and never answers; whoever stops the stack goes on without it, and who looks is told."""
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(supervisor, "CALL_TIMEOUT_SECONDS", 0.2)
    with listening(tmp_path / "run", None) as frozen:
        assert frozen.running()
        assert frozen.states() == {}
        out = StringIO()
        monkeypatch.setenv("ONECARD_HOME", str(tmp_path))
        assert not stack_status.show_status(StackSettings(), Console(file=out))
        assert "does not answer now" in out.getvalue()
        assert frozen.shut_down(60) is False


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import time; time.sleep(60)", "within 0.5 s"),
        ("raise SystemExit(3)", "exit code 3"),
        ("raise SystemExit('no such user')", "no such user"),
    ],
)
def test_a_supervisord_that_does_not_start_is_one_line(program: str, words: str) -> None:
    """Whether it hangs, fails in silence or says why."""
    with pytest.raises(StackError, match=words):
        supervisor._launch([sys.executable, "-S", "-c", program], {}, 0.5)


def test_the_keeper_tries_until_a_supervisord_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that fails is not the last one; without a configuration there is nothing to start."""
    monkeypatch.setattr(supervisor_guard, "POLL_SECONDS", 0.01)
    one = Supervisor(tmp_path)
    one.config.touch()
    starts: list[Path] = []
    monkeypatch.setattr(one, "running", lambda: len(starts) == 3)
    supervisor_guard.restart_supervisor(one, starts.append)
    assert starts == [one.config] * 3
    one.config.unlink()
    starts.clear()
    supervisor_guard.restart_supervisor(one, starts.append)
    assert starts == []


def test_grace_times_are_those_of_the_written_configuration(tmp_path: Path) -> None:
    """What runs is given the time it was started with; without a configuration, a usual one."""
    config = tmp_path / "supervisord.conf"
    assert grace_seconds(config) == [GRACE_SECONDS]
    config.write_text(render(PARTS, "abc"))
    assert grace_seconds(config) == [2, 10, 7, 10]


@pytest.mark.parametrize("name", ["HF_TOKEN", "hf_token", "RUNPOD_API_KEY", "Runpod_Api_Key"])
def test_keys_of_others_reach_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """In whatever case `.env` has them."""
    monkeypatch.setenv(name, "not-yours")
    part = Process("one", (sys.executable, "-c", "import time; time.sleep(100)"), 3)
    with running([part], tmp_path) as one:
        wait_for(lambda: one.states()["one"].state == "RUNNING", "it runs")
        assert "not-yours" not in psutil.Process(one.states()["one"].pid).environ().values()
