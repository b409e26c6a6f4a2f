"""Starts that cannot succeed: one clear line, an exit code that is not 0, and nothing left running."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from onecard.models.folders import MANIFEST, STAND_INS, folder_name
from onecard_stack import cli
from onecard_stack.errors import StackError
from onecard_stack.processes import orphans
from onecard_stack.stack import Stack
from onecard_stack.supervision import presence
from tests.stack.conftest import Workspace
from tests.support import eventually

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("variable", ["GATEWAY_PORT", "SENTIMENT_PORT", "REDIS_PORT"])
def test_a_port_that_is_taken(place: Workspace, variable: str) -> None:
    """The line names the port and the variable to set."""
    with socket.create_server(("127.0.0.1", place.port(variable))):
        place.assert_refused(place.run("up"), str(place.port(variable)), variable)


def test_a_broken_model_folder(place: Workspace, shallow_cache: Path, tmp_path: Path) -> None:
    """The line names the folder, what is wrong with it, and what to type."""
    own = tmp_path / "models"
    for name in STAND_INS.values():
        shutil.copytree(shallow_cache / folder_name(name), own / folder_name(name))
    weights = own / folder_name(STAND_INS["sentiment"]) / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 100)
    result = place.run("up", MODEL_CACHE_PATH=str(own))
    place.assert_refused(result, str(weights.parent), "model.safetensors", "make models")


def test_a_full_disk(place: Workspace, own_stack: Callable[[Workspace], Stack], tmp_path: Path) -> None:
    """The line says how much is missing, and where; nothing is started."""
    with pytest.raises(StackError, match=rf"{tmp_path}.* is full: .* 1000000000000 MB needed"):
        own_stack(place).up(free_mb=1e12)
    assert place.processes() == []


def test_an_open_door(place: Workspace) -> None:
    """Before a stack that runs is stopped for it."""
    place.assert_refused(place.run("up", HOST="0.0.0.0", API_KEY=""), "HOST=0.0.0.0", "API_KEY")


def test_a_wrong_setting(place: Workspace) -> None:
    """The line names the variable, from whichever part, and not its value."""
    result = place.run("up", BATCH_TOKENS="many", API_KEY="short")
    assert result.returncode == 1
    assert "BATCH_TOKENS" in result.stderr
    assert "API_KEY" in result.stderr
    assert "LLM_MODEL" not in result.stderr, "its default only depends on the wrong ones"
    assert "many" not in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert place.processes() == []


def test_a_wrong_setting_stops_nobody_from_stopping(place: Workspace) -> None:
    """`down` and `logs` need no setting but the folder."""
    (place.folder / ".env").write_text("MAX_INPUTS=none\n")
    down = place.run("down", GATEWAY_PORT="many", API_KEY="short")
    assert (down.returncode, down.stderr) == (0, "")
    assert down.stdout.startswith("Nothing was running.\n")  # Other tests' stacks may run elsewhere, which it says.
    assert place.run("logs", GATEWAY_PORT="many").returncode == 0


def test_a_setting_in_dotenv_counts_and_the_environment_wins(place: Workspace) -> None:
    """`.env` in the current directory is read."""
    (place.folder / ".env").write_text("MAX_INPUTS=none\n")
    assert "MAX_INPUTS" in place.run("status").stderr
    assert place.run("status", MAX_INPUTS="5").stderr == ""


def test_a_part_that_keeps_crashing(place: Workspace, shallow_cache: Path, tmp_path: Path) -> None:
    """The line says which part, the last thing it said, and where its log is."""
    broken = tmp_path / "no-such-architecture"
    shutil.copytree(shallow_cache / folder_name(STAND_INS["embedding"]), broken)
    config = broken / "config.json"
    config.write_text(config.read_text().replace('"bert"', '"nonsense"'))
    (broken / MANIFEST).unlink()  # It knows the file's digest: without it, the folder is somebody's own.
    result = place.run("up", EMBEDDING_MODEL=str(broken))
    place.assert_refused(result, "embedding keeps crashing", "embedding.log")


def test_a_time_limit(place: Workspace) -> None:
    """The line names the parts that were not ready, and the variable."""
    place.assert_refused(place.run("up", START_SECONDS="2"), "llm", "START_SECONDS")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_start(place: Workspace, number: signal.Signals) -> None:
    """Ctrl-C in the middle stops what was started, and ends with 130."""
    process = place.start("up")
    assert process.stdout is not None
    for line in process.stdout:
        if "loading" in line:
            break
    assert len(place.processes()) > 3
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert place.processes() == []


def test_two_starts_at_once(place: Workspace) -> None:
    """The second one says so, and disturbs nothing."""
    first = place.start("up")
    deadline = time.monotonic() + 30
    while not place.supervisor.running() and time.monotonic() < deadline:
        time.sleep(0.1)
    second = place.run("up")
    assert second.returncode == 1
    assert "Another 'onecard up'" in second.stderr
    assert place.supervisor.running()
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=60)


def test_down_ends_a_start_that_has_started_nothing_yet(place: Workspace) -> None:
    """As one that fetches models: by the lock, since no process of the stack is there."""
    program = "import pathlib, time; from onecard_stack.supervision.start_lock import start_lock\n"
    program += f"with start_lock(pathlib.Path({str(place.run_folder)!r})): print('has it', flush=True); time.sleep(100)"
    starting = place.start_python("-c", program)
    assert starting.stdout is not None
    assert starting.stdout.readline() == "has it\n"
    refused = place.run("up")
    assert refused.returncode == 1
    assert "'make down'" in refused.stderr
    assert place.run("down").stdout == "Stopped.\n"
    assert starting.poll() == -signal.SIGTERM
    starting.communicate()
    assert presence.is_held(place.run_folder)
    assert place.run("down").stdout.startswith("Nothing was running.\n")


def test_leftovers_are_ended_and_strangers_are_not(place: Workspace) -> None:
    """`down` finds what an earlier run left, by its environment; another checkout's processes go on."""
    sleep = [sys.executable, "-c", "import time; time.sleep(100)"]
    environment = {**place.env, orphans.PROCESS_VARIABLE: "llm"}
    ours = subprocess.Popen(sleep, env={**environment, orphans.RUN_FOLDER_VARIABLE: str(place.run_folder)})
    other = subprocess.Popen(sleep, env={**environment, orphans.RUN_FOLDER_VARIABLE: str(place.run_folder) + "-other"})
    try:
        for started in (ours, other):  # Until then they have our environment, and our command line.
            eventually(lambda process=started: orphans.RUN_FOLDER_VARIABLE in psutil.Process(process.pid).environ())
        assert place.run("down").stdout == "Stopped.\n"
        assert ours.wait(5) == -signal.SIGTERM
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
        ours.kill()
        ours.wait()


def test_there_is_no_negative_number_of_lines() -> None:
    """Said as a wrong option is."""
    result = CliRunner().invoke(cli.logs, ["-n", "-1"])
    assert (result.exit_code, "Traceback" in result.output) == (2, False)


def test_every_command_explains_itself(place: Workspace) -> None:
    """--help says what each command does and takes no stack to do it."""
    for command in ([], ["up"], ["down"], ["status"], ["logs"], ["models"], ["demo"]):
        result = place.run(*command, "--help")
        assert result.returncode == 0
        assert len(result.stdout.splitlines()) > 5
