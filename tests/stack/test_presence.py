"""`onecard run` and its stack: neither outlives the other, and a pod's stays where `onecard down` has stopped it."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

from onecard_runpod.entrypoint import stack_program
from onecard_stack import cli
from onecard_stack.commands import stack_status
from onecard_stack.stack import Stack
from onecard_stack.supervision import presence, stopping
from onecard_stack.supervision.supervisor import Supervisor

run: Callable[..., Any] = cli.run.callback  # type: ignore[assignment]


def test_a_stack_is_gone_when_it_has_not_been_seen_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisord that was killed is restarted meanwhile; one of another start comes later."""
    seen, starting, is_running = presence.Presence(Supervisor(tmp_path)), list[bool](), True
    monkeypatch.setattr(seen.supervisor, "running", lambda: is_running)
    monkeypatch.setattr(presence, "starting_process", lambda _: bool(starting))
    assert not seen.is_gone(100)
    is_running = False
    assert not seen.is_gone(101)
    is_running = True
    assert not seen.is_gone(102)
    is_running = False
    starting.append(True)
    assert not seen.is_gone(102 + presence.GONE_SECONDS)
    starting.clear()
    assert not seen.is_gone(103 + presence.GONE_SECONDS)
    assert seen.is_gone(102 + 2 * presence.GONE_SECONDS)


def test_a_stop_by_hand_lasts_until_a_start_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While that start is at work, too, and not beyond the container's end."""
    presence.hold(tmp_path / "nothing was ever started here")
    presence.hold(tmp_path)
    said, sleeps = list[str](), list[bool]()

    def sleep(_: float) -> None:
        sleeps.append(presence.is_held(tmp_path))
        presence.release(tmp_path)

    monkeypatch.setattr(presence, "time", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(presence, "starting_process", lambda _: len(sleeps) < 3)
    presence.wait_while_held(tmp_path, said.append)
    assert sleeps == [True, False, False]
    assert len(said) == 1
    presence.wait_while_held(tmp_path, said.append)
    presence.hold(tmp_path)
    os.utime(tmp_path / presence.HELD_FILE, (0, 0))
    assert not presence.is_held(tmp_path)
    presence.wait_while_held(tmp_path, said.append)
    assert len(said) == 1


def test_a_start_by_hand_that_fails_leaves_the_stop_as_it_was(tmp_path: Path) -> None:
    """Else a pod would start again with its own settings."""

    def fail() -> None:
        with presence.released(tmp_path):
            assert not presence.is_held(tmp_path)
            raise KeyboardInterrupt

    for was_held in (False, True):
        with pytest.raises(KeyboardInterrupt):
            fail()
        assert presence.is_held(tmp_path) == was_held
        presence.hold(tmp_path)
    with presence.released(tmp_path):
        pass
    assert not presence.is_held(tmp_path)


@pytest.fixture
def stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Run folders that were stopped. A stack is up that ends at once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONECARD_HOME", str(tmp_path))
    monkeypatch.setattr(presence, "GONE_SECONDS", 0.05)
    monkeypatch.setattr(stack_status, "FOLLOW_POLL_SECONDS", 0)
    monkeypatch.setattr(Stack, "up", lambda *_, **__: False)
    stopped: list[Path] = []
    monkeypatch.setattr(stopping, "stop", stopped.append)
    (tmp_path / "run").mkdir()
    return stopped


def test_it_ends_with_its_stack(stops: list[Path], tmp_path: Path) -> None:
    """With an exit code that tells whoever restarts it. What is left of the stack is stopped."""
    presence.hold(tmp_path / "run")
    with pytest.raises(SystemExit, match="The stack has ended"):
        run(stay=False)
    assert stops == [tmp_path / "run"]


def test_a_pod_waits_where_down_has_stopped_the_stack(
    stops: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while reviews are restored. A stack that has died, it ends with."""
    assert stack_program({}, None).argv[-2:] == ("run", "--stay")
    until, is_held = time.monotonic() + 5 * presence.GONE_SECONDS, presence.is_held

    def look(run_folder: Path) -> bool:
        if time.monotonic() > until:
            raise KeyboardInterrupt
        return is_held(run_folder)

    with monkeypatch.context() as patched:
        patched.setattr(presence, "is_held", look)
        patched.setattr(presence, "wait_while_held", lambda *_: None)
        presence.hold(tmp_path / "run")
        run(stay=True)
    presence.release(tmp_path / "run")
    with pytest.raises(SystemExit, match="The stack has ended"):
        run(stay=True)


def test_its_stack_ends_with_it(stops: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nobody reads what it prints, as in `onecard run | head`."""

    def echo(_: str) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(click, "echo", echo)
    with pytest.raises(SystemExit, match="BrokenPipeError"):
        run(stay=False)
    assert stops == [tmp_path / "run"]
