"""Tidying up after a start or a demonstration that went wrong, and leaving alone what is not ours."""

import errno
import os
import signal
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from onecard_stack.commands import stack_status
from onecard_stack.errors import StackError
from onecard_stack.stack import Stack
from onecard_stack.supervision import presence, readiness, stopping
from tests.stack.conftest import Workspace
from tests.support import KEY

StackFactory = Callable[[Workspace], Stack]


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


def test_a_closed_terminal_does_not_keep_it_from_stopping(
    place: Workspace, own_stack: StackFactory, stopped: list[Path]
) -> None:
    """It is stopped first and told afterwards, and telling may fail; signals meanwhile change nothing."""
    stack = own_stack(place)
    stack.console = Console(file=ClosedTerminal())
    before = signal.getsignal(signal.SIGTERM)
    stack.stop_started("Stopped.")
    assert stopped == [place.run_folder]
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_start_that_fails_stops_what_it_started(
    place: Workspace, own_stack: StackFactory, stopped: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it was, the reason is what the caller gets, also when nobody reads the output. A stop by hand before it
    lasts: else a pod would start again by itself."""
    stack = own_stack(place)
    place.run_folder.mkdir(parents=True)
    presence.hold(place.run_folder)

    def start(*_: object) -> None:
        stack.console = Console(file=ClosedTerminal())
        raise StackError("the reason")

    monkeypatch.setattr(stack.supervisor, "start", start)
    with pytest.raises(StackError, match="the reason"):
        stack.up()
    assert stopped == [place.run_folder]
    assert presence.is_held(place.run_folder)


@pytest.mark.parametrize("answers", [True, False])
def test_a_demonstration_never_restarts_what_runs(
    place: Workspace, own_stack: StackFactory, stopped: list[Path], monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    """Other settings or not, what answers is used as it is; what does not answer is not replaced in passing."""
    stack = own_stack(place)
    place.run_folder.mkdir(parents=True)
    stack.supervisor.config.write_text("of other settings")
    monkeypatch.setattr(stack.supervisor, "running", lambda: True)
    monkeypatch.setattr(readiness, "is_ready", lambda _: answers)
    if answers:
        assert stack.up(keep=True) is False
    else:
        with pytest.raises(StackError, match="other settings"):
            stack.up(keep=True)
    assert stopped == []


def test_a_key_in_dotenv_is_not_shown_but_brought_into_the_shell(
    place: Workspace, own_stack: StackFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`$API_KEY` in the lines to type would be empty otherwise."""
    monkeypatch.chdir(tmp_path)
    settings = own_stack(place).settings
    assert "./.env" not in stack_status.usage_hint(settings)
    (tmp_path / ".env").write_text(f"API_KEY={KEY}\n")
    shown = stack_status.usage_hint(settings)
    assert "set -a; . ./.env; set +a" in shown
    assert KEY not in shown
