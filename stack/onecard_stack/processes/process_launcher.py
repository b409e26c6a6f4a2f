"""`python -m onecard_stack.processes.process_launcher NAME`: exec a process, or wait for the one that still runs.

supervisord starts every process through this. Two things may be left of an earlier run:

- supervisord was killed, and the process itself still works. It goes on working; the launcher waits for it, forwards
  SIGTERM to it, and starts it again when it ends.
- The process was killed, and children of it still hold its port or its GPU memory. The launcher ends them.
"""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from onecard_stack.processes import command_file, log_files, orphans

GRACE_SECONDS = 3.0
POLL_SECONDS = 0.2
MAIN_PID_VARIABLE = "ONECARD_MAIN"
"""Environment variable with the process id of the main process. Children inherit it, but have other ids."""


def main() -> None:
    """Wait for a survivor, end its children, then exec the command."""
    signals: list[int] = []
    # Set before the search: a SIGTERM that comes during it is meant for the process itself.
    signal.signal(signal.SIGTERM, lambda number, _: signals.append(number))
    name, run_folder = sys.argv[1], Path(os.environ[orphans.RUN_FOLDER_VARIABLE])
    log_files.redirect_output(run_folder.parent / "logs" / f"{name}.log")
    command = command_file.read_command(run_folder, name)
    survivor = next((process for process in orphans.find(run_folder, name) if is_main_process(process)), None)
    if survivor is not None:
        stand_in_for(survivor, signals)
    orphans.terminate(orphans.find(run_folder, name), GRACE_SECONDS)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if signals:
        return
    command.exec({MAIN_PID_VARIABLE: str(os.getpid())})


def is_main_process(process: psutil.Process) -> bool:
    """Check that this is the main process, not a child of it or another launcher."""
    try:
        own = process.environ().get(MAIN_PID_VARIABLE)
        return own == str(process.pid) or (own is None and process.name().startswith("redis-server"))
    except (psutil.Error, OSError):
        return False


def stand_in_for(survivor: psutil.Process, signals: list[int]) -> None:
    """Wait until a surviving process ends, and forward SIGTERM to it.

    Args:
        survivor: the main process of an earlier supervisord.
        signals: numbers of the received signals; the handler appends to it meanwhile.
    """
    with suppress(OSError):
        print(f"process {survivor.pid} of an earlier supervisor goes on")
        sys.stdout.flush()
    forwarded = False
    while orphans.is_alive(survivor):
        if signals and not forwarded:
            forwarded = True
            with suppress(psutil.Error):
                survivor.terminate()
        with suppress(psutil.Error):
            survivor.wait(POLL_SECONDS)


if __name__ == "__main__":
    main()
