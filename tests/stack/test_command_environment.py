"""Machines unlike ours: files in other encodings, other locales, other users, no IPv6."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from onecard import command_environment
from onecard_runpod.settings import PodSettings
from onecard_stack import file_owners
from onecard_stack.processes import orphans
from onecard_stack.settings import known_variables
from tests.stack.conftest import Workspace, make_workspace

ROOT = Path(__file__).parents[2]
HANGUL = "# 포트를 바꾼다\nMAX_INPUTS=7\nONECARD_HOME=집\n"
SLEEP = [sys.executable, "-c", "import time; time.sleep(100)"]
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of another user's")


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Workspace]:
    """A place without models, for commands that start nothing."""
    made = make_workspace(tmp_path, tmp_path / "models")
    yield made
    orphans.terminate_all(made.run_folder, 5)


@pytest.fixture
def orphan(bare: Workspace) -> Iterator["subprocess.Popen[bytes]"]:
    """A process of a part that nobody watches any more."""
    marks = {orphans.RUN_FOLDER_VARIABLE: str(bare.run_folder), orphans.PROCESS_VARIABLE: "review"}
    with subprocess.Popen(SLEEP, env={**bare.env, **marks}) as process:
        yield process
        process.kill()


@pytest.mark.parametrize(
    ("encoding", "named"),
    [("cp949", "CP949"), ("utf-16", "UTF-16"), ("utf-16-le", "UTF-16LE"), ("utf-16-be", "UTF-16BE")],
)
@pytest.mark.parametrize("command", ["status", "up", "keys"])
def test_a_dotenv_that_is_not_utf8(bare: Workspace, encoding: str, named: str, command: str) -> None:
    """One line names the file, and what to do; what it says to type puts it right."""
    (bare.folder / ".env").write_bytes(HANGUL.encode(encoding))
    result = bare.run(command)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert f"{bare.folder / '.env'} is not in UTF-8, but most likely in {named}." in result.stderr
    if command == "status":
        subprocess.run(["/bin/sh", "-c", result.stderr.partition("or type: ")[2]], check=True)
        assert (bare.folder / ".env").read_text("utf-8-sig") == HANGUL


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp949", "utf-16", "utf-16-le"])
def test_whatever_dotenv_is_a_stack_can_be_stopped(
    bare: Workspace, encoding: str, orphan: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    """`down` finds the folder that the file names, and ends what runs there; `logs` reads there."""
    (bare.folder / ".env").write_bytes(HANGUL.encode(encoding))
    home = {orphans.RUN_FOLDER_VARIABLE: str(bare.folder / "집" / "run")}
    with subprocess.Popen(SLEEP, env={**bare.env, **home}) as named:
        down = bare.run("down")
        assert (down.returncode, down.stdout) == (0, "Stopped.\n"), down.stderr
        assert named.wait(10) == -signal.SIGTERM
    assert orphan.poll() is None, "it is of another folder"
    assert bare.run("logs").returncode == 0


def test_a_dotenv_with_a_byte_order_mark_is_utf8(tmp_path: Path) -> None:
    """Notepad's «UTF-8 with BOM»: the first name has no mark in it."""
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbfMAX_INPUTS=7\nB=${MAX_INPUTS}\n# C=3\n")
    assert command_environment.read_dotenv(tmp_path) == {"MAX_INPUTS": "7", "B": "7"}
    assert command_environment.read_dotenv(tmp_path / "elsewhere") == {}


def test_a_misspelt_setting_is_told_with_its_name(bare: Workspace) -> None:
    """The nearest one; what resembles none is somebody else's."""
    (bare.folder / ".env").write_text("GATEWY_PORT=9000\nMY_OWN=1\nMKL_NUM_THREADS=2\nmax_inputs=5\n")
    said = bare.run("status").stderr
    assert said == "settings: .env sets GATEWY_PORT, which nothing reads. Is GATEWAY_PORT meant?\n"


def test_no_variable_that_is_listed_is_taken_for_a_typing_error() -> None:
    """All of `.env.example` is known."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    listed = {line[1:].partition("=")[0] for line in lines if line.startswith("#") and line[1:2].isupper()}
    assert len(listed) > 80
    assert command_environment.misspelled(listed, known_variables()) == {}
    assert listed <= {*known_variables(), *(name.upper() for name in PodSettings.model_fields)}


@pytest.fixture(scope="session")
def locales(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where the locale ko_KR.EUC-KR is, made here if the system can."""
    folder = tmp_path_factory.mktemp("locales")
    if shutil.which("localedef") is None:
        pytest.skip("there is no localedef to make a locale with")
    subprocess.run(["localedef", "-i", "ko_KR", "-f", "EUC-KR", str(folder / "ko_KR.EUC-KR")], check=False)
    if not (folder / "ko_KR.EUC-KR").is_dir():
        pytest.skip("localedef cannot make ko_KR.EUC-KR")
    return {"LOCPATH": str(folder), "LC_ALL": "ko_KR.EUC-KR"}


def test_a_locale_that_is_not_utf8_changes_nothing(bare: Workspace, locales: dict[str, str]) -> None:
    """Settings in Hangul count, paths in it can be used, and a terminal is spoken to in its own encoding."""
    (bare.folder / ".env").write_text(HANGUL)
    logs = bare.folder / "집" / "logs"
    logs.mkdir(parents=True)
    (logs / "gateway.log").write_text("국물\n")
    command = [sys.executable, "-m", "onecard_stack"]
    for variables, encoding in (({"LC_ALL": "C"}, "utf-8"), (locales, "euc-kr")):
        env = {**bare.env, **variables, "PYTHONUTF8": "0"}
        status = subprocess.run([*command, "status"], cwd=bare.folder, env=env, capture_output=True)
        assert (status.returncode, status.stderr) == (1, b"")
        assert f"No stack runs in {bare.folder / '집'}." in status.stdout.decode(encoding)
        shown = subprocess.run([*command, "logs", "gateway"], cwd=bare.folder, env=env, capture_output=True)
        assert shown.stdout == "국물\n".encode(encoding)


def test_a_stack_elsewhere_is_not_said_to_be_none(
    bare: Workspace, orphan: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    """In another folder, `status` and `down` say which one is meant, and where stacks of this user's run."""
    other = make_workspace(tmp_path / "other", tmp_path / "models")
    other.folder.mkdir()
    told = f"ONECARD_HOME={bare.folder / '.onecard'}"
    status = other.run("status")
    assert status.returncode == 1
    assert f"No stack runs in {other.folder / '.onecard'}." in status.stdout
    assert told in status.stdout
    down = other.run("down")
    assert down.stdout.startswith("Nothing was running.\n")
    assert told in down.stdout
    assert orphan.poll() is None


def test_orphaned_processes_are_said_to_run_and_can_be_ended(
    bare: Workspace, orphan: "subprocess.Popen[bytes]"
) -> None:
    """supervisord and its keeper are gone, a part is not."""
    status = bare.run("status")
    assert status.returncode == 1
    assert f"processes of it run: review ({orphan.pid})" in status.stdout
    assert bare.run("down").stdout == "Stopped.\n"
    assert orphan.wait(5) == -signal.SIGTERM


def without_ipv6(place: Workspace, **more: str) -> "subprocess.CompletedProcess[str]":
    """`onecard up` on a machine of its own, without IPv6."""
    script = (
        "ip link set lo up && echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6 && "
        f"exec {sys.executable} -m onecard_stack up"
    )
    command = ["unshare", "--map-root-user", "--net", "/bin/sh", "-c", script]
    return subprocess.run(
        command, cwd=place.folder, env={**place.env, **more}, capture_output=True, text=True, timeout=120
    )


def test_all_addresses_of_a_machine_without_ipv6(bare: Workspace) -> None:
    """`::` can be listened on there, and nobody gets to it: it is refused, with what to set."""
    trial = ["unshare", "--map-root-user", "--net", "/bin/sh", "-c", "ip link set lo up"]
    if shutil.which("unshare") is None or subprocess.run(trial, capture_output=True).returncode:
        pytest.skip("no network of one's own can be had here")
    bare.assert_refused(without_ipv6(bare, HOST="::"), "HOST=::", "no IPv6", "0.0.0.0")


def test_an_address_of_another_machine(bare: Workspace) -> None:
    """The line names HOST and not a port."""
    bare.assert_refused(bare.run("up", HOST="192.0.2.1"), "HOST=192.0.2.1", "127.0.0.1")


def test_a_log_that_cannot_be_written(place: Workspace) -> None:
    """At once, with the file's name; before, supervisord tried to the end of START_SECONDS."""
    (place.logs / "gateway.log").mkdir(parents=True)
    began = time.monotonic()
    place.assert_refused(place.run("up"), str(place.logs / "gateway.log"), "cannot be written")
    assert time.monotonic() - began < 60


@pytest.fixture
def as_nobody(bare: Workspace) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs `onecard` as the user nobody, in a folder of root's where that user may go."""
    for folder in (bare.folder, *bare.folder.parents):
        if folder.stat().st_mode & 0o777 == 0o700:
            folder.chmod(0o755)

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = ["setpriv", f"--reuid={NOBODY}", "--clear-groups", sys.executable, "-m", "onecard_stack", *arguments]
        env = {name: value for name, value in bare.env.items() if name != "HOME"}
        return subprocess.run(command, cwd=bare.folder, env=env, capture_output=True, text=True, timeout=120)

    return run


@as_root
@pytest.mark.parametrize("command", ["up", "down", "status"])
def test_what_sudo_left_behind(
    bare: Workspace, as_nobody: Callable[..., "subprocess.CompletedProcess[str]"], command: str
) -> None:
    """One line: which files, whose they are, and the line to type."""
    bare.logs.mkdir(parents=True)
    bare.run_folder.mkdir(mode=0o700)
    (bare.logs / "gateway.log").touch(0o600)
    os.chown(bare.folder / ".onecard", NOBODY, NOBODY)
    result = as_nobody(command)
    bare.assert_refused(result, str(bare.run_folder), "belong to root", "sudo chown -R nobody ", "sudo make")


@as_root
def test_another_user_s_keys_end_in_one_line(
    bare: Workspace, as_nobody: Callable[..., "subprocess.CompletedProcess[str]"]
) -> None:
    """Whatever file it is that the system refuses."""
    closed = bare.folder / "closed"
    closed.mkdir(mode=0o700)
    bare.env["ONECARD_HOME"] = str(closed / "home")
    result = as_nobody("up")
    bare.assert_refused(result, str(closed))
    assert file_owners.foreign_files([closed]) == [], "root is at home everywhere"


def test_files_of_one_s_own_are_nobody_else_s(tmp_path: Path) -> None:
    """Nothing is said where nothing is wrong, also where there is nothing yet."""
    assert file_owners.foreign_files([tmp_path, tmp_path / "none"]) == []
