"""`python -m onecard_stack.processes.process_launcher NAME`: become the part, or watch over the one that still runs.

supervisord starts every part through this. Two things may be left of an earlier life of the part:

- supervisord was killed, and the part itself still works: then it goes on working, and this process stands in for
  it, passes SIGTERM on, and starts it anew when it ends;
- the part was killed, and children of it are left, with its port or its share of the card: then they are ended.
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
"""Environment variable with the process id of the part itself; its children inherit it, and have other ids."""


def main() -> None:
    """Watch what runs; then clear up and exec."""
    told: list[int] = []
    # Before anything is looked for: whoever stops us meanwhile means the part.
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    name, run_folder = sys.argv[1], Path(os.environ[orphans.RUN_FOLDER_VARIABLE])
    log_files.redirect_output(run_folder.parent / "logs" / f"{name}.log")
    command = command_file.read_command(run_folder, name)
    survivor = next((process for process in orphans.find(run_folder, name) if is_main_process(process)), None)
    if survivor is not None:
        stand_in_for(survivor, told)
    orphans.terminate(orphans.find(run_folder, name), GRACE_SECONDS)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if told:
        return
    command.exec({MAIN_PID_VARIABLE: str(os.getpid())})


def is_main_process(process: psutil.Process) -> bool:
    """The part itself, not a child of it or another watcher."""
    try:
        own = process.environ().get(MAIN_PID_VARIABLE)
        return own == str(process.pid) or (own is None and process.name().startswith("redis-server"))
    except (psutil.Error, OSError):
        return False


def stand_in_for(survivor: psutil.Process, told: list[int]) -> None:
    """Wait until `survivor` ends; once something is in `told`, tell it to."""
    with suppress(OSError):
        print(f"process {survivor.pid} of an earlier supervisor goes on")
        sys.stdout.flush()
    passed_on = False
    while orphans.is_alive(survivor):
        if told and not passed_on:
            passed_on = True
            with suppress(psutil.Error):
                survivor.terminate()
        with suppress(psutil.Error):
            survivor.wait(POLL_SECONDS)


if __name__ == "__main__":
    main()
