"""Tells the command that stays with a stack whether that is still there, and whether it was stopped by hand."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from onecard_stack.supervision.start_lock import starting_process
from onecard_stack.supervision.supervisor import Supervisor

GONE_SECONDS = 10.0
"""A stack without a supervisor for this long has ended; one that was killed is restarted sooner."""
HELD_FILE = "held"
"""File in the run folder that `down` leaves there and `up` removes."""
POLL_SECONDS = 1.0


@dataclass
class Presence:
    """The last time that a stack was seen."""

    supervisor: Supervisor
    _seen: float | None = None

    def is_gone(self, now: float) -> bool:
        """Look at the stack.

        Args:
            now: time of the look, in seconds of a monotonic clock.

        Returns:
            Whether it has neither run nor been started for `GONE_SECONDS`.
        """
        if self._seen is None or self.supervisor.running():
            self._seen = now
        elif now - self._seen >= GONE_SECONDS and starting_process(self.supervisor.run_folder):
            self._seen = now  # With other settings, as by 'onecard up'.
        return now - self._seen >= GONE_SECONDS


def hold(run_folder: Path) -> None:
    """Leave a sign that the stack was stopped by hand.

    Args:
        run_folder: the stack's run folder. Nothing happens if it does not exist.
    """
    with suppress(FileNotFoundError):
        (run_folder / HELD_FILE).touch()


def release(run_folder: Path) -> None:
    """Remove that sign."""
    (run_folder / HELD_FILE).unlink(missing_ok=True)


@contextmanager
def released(run_folder: Path) -> Iterator[None]:
    """Remove that sign, and leave it again if the start inside the block fails.

    Args:
        run_folder: the stack's run folder.
    """
    was_held = is_held(run_folder)
    release(run_folder)
    try:
        yield
    except BaseException:
        if was_held:
            hold(run_folder)
        raise


def is_held(run_folder: Path) -> bool:
    """Whether the stack was stopped by hand, and not started by hand since then.

    Args:
        run_folder: the stack's run folder.

    Returns:
        Also False if the sign is older than this machine's or container's start.
    """
    with suppress(OSError, psutil.Error):
        return (run_folder / HELD_FILE).stat().st_mtime > psutil.Process(1).create_time()
    return False


def wait_while_held(run_folder: Path, report: Callable[[str], None]) -> None:
    """Wait while the stack is stopped by hand, and then while it is started by hand.

    Args:
        run_folder: the stack's run folder.
        report: takes a line that says so.
    """
    if is_held(run_folder):
        report("Stopped by 'onecard down': waiting for 'onecard up'.")
    while is_held(run_folder) or starting_process(run_folder):
        time.sleep(POLL_SECONDS)
