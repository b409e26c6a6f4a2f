"""Tidying up after a start or a demonstration that went wrong, and leaving alone what is not ours."""

import errno
import os
import signal
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from onecard_stack import probe, reading, stopping
from onecard_stack.errors import StackError
from onecard_stack.stack import Stack
from tests.stack.conftest import Place
from tests.support import KEY

Make = Callable[[Place], Stack]


class ClosedTerminal(StringIO):
    """Takes nothing any more."""

    def write(self, _: str) -> int:
        """What the kernel says once the terminal is gone."""
        raise OSError(errno.EIO, "Input/output error")


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Run folders that were stopped; each time, all three signals came meanwhile."""
    calls: list[Path] = []

    def stop(folder: Path) -> bool:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), number)
        calls.append(folder)
        return True

    monkeypatch.setattr(stopping, "stop", stop)
    return calls


def test_a_closed_terminal_does_not_keep_it_from_stopping(place: Place, own_stack: Make, stopped: list[Path]) -> None:
    """It is stopped first and told afterwards, and telling may fail; signals meanwhile change nothing."""
    stack = own_stack(place)
    stack.console = Console(file=ClosedTerminal())
    before = signal.getsignal(signal.SIGTERM)
    stack.stop_again("Stopped.")
    assert stopped == [place.run_folder]
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_start_that_fails_stops_what_it_started(
    place: Place, own_stack: Make, stopped: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it was, the reason is what the caller gets, also when nobody reads the output."""
    stack = own_stack(place)

    def start(*_: object) -> None:
        stack.console = Console(file=ClosedTerminal())
        raise StackError("the reason")

    monkeypatch.setattr(stack.supervisor, "start", start)
    with pytest.raises(StackError, match="the reason"):
        stack.up()
    assert stopped == [place.run_folder]


@pytest.mark.parametrize("answers", [True, False])
def test_a_demonstration_never_restarts_what_runs(
    place: Place, own_stack: Make, stopped: list[Path], monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    """Other settings or not, what answers is used as it is; what does not answer is not replaced in passing."""
    stack = own_stack(place)
    place.run_folder.mkdir(parents=True)
    stack.supervisor.config.write_text("of other settings")
    monkeypatch.setattr(stack.supervisor, "running", lambda: True)
    monkeypatch.setattr(probe, "ready", lambda _: answers)
    if answers:
        assert stack.up(keep=True) is False
    else:
        with pytest.raises(StackError, match="other settings"):
            stack.up(keep=True)
    assert stopped == []


def test_a_key_in_dotenv_is_not_shown_but_brought_into_the_shell(
    place: Place, own_stack: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`$API_KEY` in the lines to type would be empty otherwise."""
    monkeypatch.chdir(tmp_path)
    settings = own_stack(place).settings
    assert "./.env" not in reading.how_to_call(settings)
    (tmp_path / ".env").write_text(f"API_KEY={KEY}\n")
    shown = reading.how_to_call(settings)
    assert "set -a; . ./.env; set +a" in shown
    assert KEY not in shown
