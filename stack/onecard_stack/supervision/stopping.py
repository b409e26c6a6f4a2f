"""Stops a stack. Needs only its folder, so that it works even if the settings have become invalid since the start."""

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onecard_stack.processes import command_file, orphans
from onecard_stack.supervision.start_lock import starting_process
from onecard_stack.supervision.supervisor import SOCKET_FILE, Supervisor

GRACE_SECONDS = 20.0
"""How long a process may take to stop, if no configuration file says so."""
SUPERVISOR_MARGIN_SECONDS = 10.0
"""Additional time for supervisord itself."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def stop(run_folder: Path) -> bool:
    """Stop all processes of a stack: gracefully first, by SIGKILL after their grace time.

    Args:
        run_folder: the stack's run folder.

    Returns:
        False if nothing ran.
    """
    supervisor = Supervisor(run_folder)
    graces = grace_seconds(supervisor.config)
    ran = supervisor.running()
    orderly = ran and supervisor.shut_down(sum(graces) + SUPERVISOR_MARGIN_SECONDS)
    # After an orderly shutdown, whatever is left has already had its grace time.
    ended = orphans.terminate_all(run_folder, 1.0 if orderly else max(graces))
    (run_folder / SOCKET_FILE).unlink(missing_ok=True)
    shutil.rmtree(command_file.scratch_folder(run_folder), ignore_errors=True)
    return ran or ended > 0


def end_start(run_folder: Path) -> bool:
    """End the command that starts the stack now, which stops by itself what it has started.

    Args:
        run_folder: the stack's run folder.

    Returns:
        False if there was none.
    """
    process = starting_process(run_folder)
    if process is None:
        return False
    orphans.terminate([process], sum(grace_seconds(Supervisor(run_folder).config)) + SUPERVISOR_MARGIN_SECONDS)
    return True


def grace_seconds(config: Path) -> list[float]:
    """Read how long each process may take to stop from the configuration that the running stack was started with.

    Args:
        config: path of supervisord's configuration.

    Returns:
        Seconds, one value per process; `[GRACE_SECONDS]` if the file cannot be read or has none.
    """
    try:
        text = config.read_text(errors="replace")
    except (OSError, ValueError):
        text = ""
    return [float(seconds) for seconds in re.findall(r"^stopwaitsecs=(\d+)$", text, re.MULTILINE)] or [GRACE_SECONDS]


@contextmanager
def ignoring_signals() -> Iterator[None]:
    """Ignore Ctrl-C, SIGTERM and a closed terminal inside the block, so that a cleanup runs to its end."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def ended_afterwards(process: "subprocess.Popen[Any]", grace_seconds: float) -> Iterator[None]:
    """End a child that still runs when the block is left, as after Ctrl-C: by SIGTERM, then by SIGKILL.

    Args:
        process: the child.
        grace_seconds: how long it may take after SIGTERM.
    """
    try:
        yield
    finally:
        if process.poll() is None:
            with ignoring_signals():
                process.terminate()
                try:
                    process.wait(grace_seconds)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
