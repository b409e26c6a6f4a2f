"""`python -m onecard_stack.keeper CONFIG`: starts supervisord again if somebody kills it.

supervisord in turn starts this process again if somebody kills that.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from onecard_stack.leftovers import PART_VARIABLE
from onecard_stack.supervisor import START_SECONDS, Supervisor

POLL_SECONDS = 0.5


def main() -> None:
    """Wait until supervisord is gone, then start another one; it brings a keeper of its own."""
    supervisor = Supervisor(Path(sys.argv[1]).parent)
    # supervisord's own word: if it was killed before we came here, our parent is already somebody else.
    watched = supervisor.pid()
    while os.getppid() == watched:
        time.sleep(POLL_SECONDS)
    revive(supervisor, start)


def revive(supervisor: Supervisor, start: Callable[[Path], None]) -> None:
    """Try until a supervisord runs again; without its configuration, the stack is no more."""
    while supervisor.config.exists() and not supervisor.running():
        start(supervisor.config)
        time.sleep(POLL_SECONDS)


def start(config: Path) -> None:
    """Start supervisord in the background, in the environment that the first one had."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SUPERVISOR_")}
    inherited.pop(PART_VARIABLE, None)
    command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(config)]
    # Our own output went to the parent: whoever writes there now gets an error.
    quiet = subprocess.DEVNULL
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(command, env=inherited, stdout=quiet, stderr=quiet, timeout=START_SECONDS)  # noqa: S603


if __name__ == "__main__":
    main()
