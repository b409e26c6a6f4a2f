"""`python -m onecard_stack.part NAME COMMAND…`: become COMMAND, or watch over the one that still runs.

supervisord starts every part through this. Two things may be left of an earlier life of the part:

- supervisord was killed, and the part itself still works: then it goes on working, and this process stands in for
  it, passes SIGTERM on, and starts it anew when it ends;
- the part was killed, and children of it are left, with its port or its share of the card: then they are ended.
"""

import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

import psutil

from onecard_stack import leftovers

GRACE_SECONDS = 3.0
POLL_SECONDS = 0.2
MAIN_VARIABLE = "ONECARD_MAIN"
"""Environment variable with the process id of the part itself; its children inherit it, and have other ids."""


def main() -> None:
    """Watch what runs; then clear up and exec."""
    name, *command = sys.argv[1:]
    run_folder = Path(os.environ[leftovers.RUN_VARIABLE])
    survivor = next((process for process in leftovers.find(run_folder, name) if is_main(process)), None)
    if survivor is not None and not watch(survivor):
        return
    leftovers.end(leftovers.find(run_folder, name), GRACE_SECONDS)
    os.execve(command[0], command, {**os.environ, MAIN_VARIABLE: str(os.getpid())})  # noqa: S606 - no shell is meant


def is_main(process: psutil.Process) -> bool:
    """The part itself, not a child of it or another watcher."""
    try:
        own = process.environ().get(MAIN_VARIABLE)
        return own == str(process.pid) or (own is None and process.name().startswith("redis-server"))
    except (psutil.Error, OSError):
        return False


def watch(survivor: psutil.Process) -> bool:
    """Wait until `survivor` ends. Returns False if we were told to stop it."""
    told: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        told.append(number)
        survivor.terminate()

    signal.signal(signal.SIGTERM, stop)
    print(f"process {survivor.pid} of an earlier supervisor goes on; its own log lines are lost until it restarts")
    sys.stdout.flush()
    while survivor.is_running() and survivor.status() != psutil.STATUS_ZOMBIE:
        time.sleep(POLL_SECONDS)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return not told


if __name__ == "__main__":
    main()
