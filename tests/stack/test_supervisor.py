"""supervisord's configuration, as supervisord itself reads it."""

import configparser
import socket
import sys
import threading
import xmlrpc.client
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from supervisor.options import ServerOptions

from onecard_stack import keeper, supervisor
from onecard_stack.errors import StackError
from onecard_stack.stopping import GRACE_SECONDS, grace_seconds
from onecard_stack.supervisor import SOCKET_PATH_MAX, Supervisor, render, socket_path
from onecard_stack.table import Process

PARTS = [
    Process("one", ("/bin/echo", "100%", "a b"), 1, environment={"X": "50%", "Y": "a,b='c' d"}, defaults={"D": "1"}),
    Process("two", ("/bin/true",), 2, order=5, stage=1, stop_seconds=7),
    Process("three", ("/bin/true",), 3, order=4, stage=1),
]


def parsed(text: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser()
    parser.read_string(text)
    return parser


def rendered(folder: Path, environment: dict[str, str] | None = None) -> str:
    return render(PARTS, folder / "run", folder / "logs", environment or {}, "abc")


def test_supervisord_understands_it(tmp_path: Path) -> None:
    """Stages are groups; percent signs, blanks, apostrophes and commas reach the parts as they are."""
    config = tmp_path / "supervisord.conf"
    config.write_text(rendered(tmp_path))
    (tmp_path / "logs").mkdir()
    (tmp_path / "run").mkdir()
    options = ServerOptions()
    options.realize(["-c", str(config)], doc="")
    stages = [sorted(group.process_configs) for group in sorted(options.process_group_configs)]
    assert [[program.name for program in stage] for stage in stages] == [["keeper", "one"], ["three", "two"]]
    programs = {program.name: program for stage in stages for program in stage}
    assert programs["one"].environment["X"] == "50%"
    assert programs["one"].environment["Y"] == "a,b='c' d"
    assert programs["one"].command.endswith("/bin/echo 100% 'a b'")
    assert programs["two"].stopwaitsecs == 7


def test_only_a_private_socket(tmp_path: Path) -> None:
    """No TCP port, and a socket that only its owner may open."""
    config = parsed(rendered(tmp_path))
    assert "inet_http_server" not in config
    assert config["unix_http_server"]["chmod"] == "0700"


def test_a_killed_part_always_comes_back(tmp_path: Path) -> None:
    """Parts are restarted whatever their exit code was, and practically for ever."""
    config = parsed(rendered(tmp_path))
    for name in ("one", "two", "keeper"):
        program = config[f"program:{name}"]
        assert program["autorestart"] == "true"
        assert int(program["startretries"]) >= 100_000
        assert program["killasgroup"] == "true"


def test_logs_are_bounded(tmp_path: Path) -> None:
    """No log grows without end."""
    program = parsed(rendered(tmp_path))["program:one"]
    assert int(program["stdout_logfile_maxbytes"]) > 0
    assert int(program["stdout_logfile_backups"]) < 10


def test_environment_wins_over_defaults_and_is_not_written(tmp_path: Path) -> None:
    """A default gives way to a variable that is set; the values set stay out of the file."""
    assert 'D="1"' in rendered(tmp_path)
    text = rendered(tmp_path, {"D": "from-outside", "API_KEY": "a-very-secret-key"})
    assert 'D="' not in text
    assert "from-outside" not in text
    assert "a-very-secret-key" not in text


def test_a_long_path_gets_a_socket_elsewhere(tmp_path: Path) -> None:
    """The kernel's limit for socket paths is no limit for checkouts."""
    short, long = Path("/srv/x/run"), tmp_path / ("deep/" * 30) / "run"
    assert socket_path(short).parent == short
    assert len(str(socket_path(long))) <= SOCKET_PATH_MAX
    assert socket_path(long) != socket_path(long / "other")


def read_request(connection: socket.socket) -> None:
    """To the end of its body: who closes with a part of it unread resets the connection, and the answer is lost."""
    request = b""
    while not request.endswith(b"</methodCall>\n"):
        request += connection.recv(10_000)


@contextmanager
def listening(folder: Path, answer: bytes | None) -> Iterator[Supervisor]:
    """Something that takes connections on the socket, and gives each the `answer`, or none."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(socket_path(folder)))
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
    """It takes connections and never answers; whoever stops the stack goes on without it."""
    monkeypatch.setattr(supervisor, "CALL_SECONDS", 0.2)
    with listening(tmp_path, None) as frozen:
        assert frozen.running()
        assert frozen.states() == {}
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
    monkeypatch.setattr(keeper, "POLL_SECONDS", 0.01)
    one = Supervisor(tmp_path)
    one.config.touch()
    starts: list[Path] = []
    monkeypatch.setattr(one, "running", lambda: len(starts) == 3)
    keeper.revive(one, starts.append)
    assert starts == [one.config] * 3
    one.config.unlink()
    starts.clear()
    keeper.revive(one, starts.append)
    assert starts == []


def test_grace_times_are_those_of_the_written_configuration(tmp_path: Path) -> None:
    """What runs is given the time it was started with; without a configuration, a usual one."""
    config = tmp_path / "supervisord.conf"
    assert grace_seconds(config) == [GRACE_SECONDS]
    config.write_text(rendered(tmp_path))
    assert grace_seconds(config) == [2, 10, 7, 10]
