"""supervisord's configuration, as supervisord itself reads it."""

import configparser
from pathlib import Path

from supervisor.options import ServerOptions

from onecard_stack.supervisor import SOCKET_PATH_MAX, render, socket_path
from onecard_stack.table import Process

PARTS = [
    Process("one", ("/bin/echo", "100%", "a b"), 1, environment={"X": "50%", "Y": "a,b='c' d"}, defaults={"D": "1"}),
    Process("two", ("/bin/true",), 2, order=5, stop_seconds=7),
]


def parsed(text: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser()
    parser.read_string(text)
    return parser


def rendered(folder: Path, environment: dict[str, str] | None = None) -> str:
    return render(PARTS, folder / "run", folder / "logs", environment or {}, "abc")


def test_supervisord_understands_it(tmp_path: Path) -> None:
    """Percent signs, blanks, apostrophes and commas reach the parts as they are."""
    config = tmp_path / "supervisord.conf"
    config.write_text(rendered(tmp_path))
    (tmp_path / "logs").mkdir()
    (tmp_path / "run").mkdir()
    options = ServerOptions()
    options.realize(["-c", str(config)], doc="")
    programs = {group.name: group.process_configs[0] for group in options.process_group_configs}
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
