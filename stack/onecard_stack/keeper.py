"""`python -m onecard_stack.keeper`: starts supervisord again if somebody kills it, and keeps the logs small.

supervisord in turn starts this process again if somebody kills that.
"""

import os
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from onecard_stack import outlog
from onecard_stack.leftovers import PART_VARIABLE, RUN_VARIABLE
from onecard_stack.supervisor import START_SECONDS, Supervisor, command

POLL_SECONDS = 0.5


def main() -> None:
    """Wait until supervisord is gone, then start another one; it brings a keeper of its own."""
    supervisor = Supervisor(Path(os.environ[RUN_VARIABLE]))
    logs = supervisor.run_folder.parent / "logs"
    outlog.take(logs / "keeper.log")
    # supervisord's own word: if it was killed before we came here, our parent is already somebody else.
    watched = supervisor.pid()
    while os.getppid() == watched:
        outlog.rotate(logs)
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
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(command(), env=inherited, cwd=config.parent, timeout=START_SECONDS, umask=0o077)  # noqa: S603


if __name__ == "__main__":
    main()
