"""Finds and ends processes of this stack that no supervisor watches any more.

Every process has the stack's run folder in its environment, and its children inherit it. So a process is recognised
whatever its parent is by now, and those of another checkout are never touched.
"""

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

RUN_FOLDER_VARIABLE = "ONECARD_RUN"
"""Environment variable with the run folder of the stack that a process belongs to."""
PROCESS_VARIABLE = "ONECARD_PART"
"""Environment variable with the name of the process in the process table."""
POLL_SECONDS = 0.05


def find(run_folder: Path, name: str | None = None) -> list[psutil.Process]:
    """Find the running processes of a stack.

    Args:
        run_folder: the stack's run folder.
        name: name in the process table; None: all of them.

    Returns:
        The processes and their children, without the caller and its ancestors.
    """
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [
        process
        for process in psutil.process_iter()
        if process.pid not in own and _belongs_to(process, run_folder, name)
    ]


def other_run_folders(run_folder: Path) -> list[Path]:
    """Find the run folders of this user's other running stacks, sorted."""
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.uids().real == os.getuid() and (folder := process.environ().get(RUN_FOLDER_VARIABLE)):
                found.add(Path(folder))
    return sorted(found - {run_folder})


def _belongs_to(process: psutil.Process, run_folder: Path, name: str | None) -> bool:
    """Check that the process belongs to that stack and is no zombie."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        environment = process.environ()
        if RUN_FOLDER_VARIABLE not in environment and process.name().startswith("redis-server"):
            return process.cwd() == str(run_folder) and name in (None, "redis")
    except (psutil.Error, OSError):
        return False
    return environment.get(RUN_FOLDER_VARIABLE) == str(run_folder) and name in (None, environment.get(PROCESS_VARIABLE))


def terminate(processes: Iterable[psutil.Process], grace_seconds: float) -> int:
    """Send SIGTERM to the topmost processes, and SIGKILL to all that are left after the grace time.

    A child gets no SIGTERM of its own: vLLM's engine would then drop requests that its server still answers.

    Args:
        processes: the processes to end.
        grace_seconds: how long they may take after SIGTERM.

    Returns:
        The number of processes.
    """
    ending = list(processes)
    pids = {process.pid for process in ending}
    for process in ending:
        if _parent_pid(process) not in pids:
            _send_signal(process, signal.SIGTERM)
    left = _wait_for_exit(ending, grace_seconds)
    for process in left:
        _send_signal(process, signal.SIGKILL)
    _wait_for_exit(left, 5)
    return len(ending)


def is_alive(process: psutil.Process) -> bool:
    """Check whether the process runs. A zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _wait_for_exit(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait until all of them have ended. Returns those that still run after `seconds`."""
    deadline = time.monotonic() + seconds
    while (left := [process for process in processes if is_alive(process)]) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return left


def terminate_all(run_folder: Path, grace_seconds: float) -> int:
    """End every process of a stack, including those that start meanwhile.

    Args:
        run_folder: the stack's run folder.
        grace_seconds: how long the first ones may take after SIGTERM. Those found later get no time.

    Returns:
        How many processes were ended.
    """
    ended = 0
    deadline = time.monotonic() + grace_seconds + 10
    while (left := find(run_folder)) and time.monotonic() < deadline:
        ended += terminate(left, grace_seconds)
        grace_seconds = 0
    return ended


def _parent_pid(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.Error:
        return None


def _send_signal(process: psutil.Process, number: signal.Signals) -> None:
    with suppress(psutil.Error):
        process.send_signal(number)
