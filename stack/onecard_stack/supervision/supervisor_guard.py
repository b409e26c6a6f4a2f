"""`python -m onecard_stack.supervision.supervisor_guard`: restarts supervisord, ends frozen services, rotates logs.

supervisord in turn restarts this process if that is killed.
"""

import os
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from onecard_stack.processes import log_files
from onecard_stack.processes.orphans import PROCESS_VARIABLE, RUN_FOLDER_VARIABLE
from onecard_stack.supervision import frozen
from onecard_stack.supervision.supervisor import START_TIMEOUT_SECONDS, Supervisor, start_command

POLL_SECONDS = 0.5


def main() -> None:
    """Wait until supervisord has ended, then start another one, which starts its own guard."""
    supervisor = Supervisor(Path(os.environ[RUN_FOLDER_VARIABLE]))
    logs = supervisor.run_folder.parent / "logs"
    log_files.redirect_output(logs / "keeper.log")
    # Read from supervisord's file: if it was killed before this line, our parent is already another process.
    watched = supervisor.pid()
    frozen.watch_in_background(supervisor)
    while os.getppid() == watched:
        log_files.rotate(logs)
        time.sleep(POLL_SECONDS)
    restart_supervisor(supervisor, start_supervisor)


def restart_supervisor(supervisor: Supervisor, start: Callable[[Path], None]) -> None:
    """Try until supervisord runs again, or until its configuration is gone because the stack was removed.

    Args:
        supervisor: the supervisord to watch.
        start: starts a supervisord; gets the path of its configuration.
    """
    while supervisor.config.exists() and not supervisor.running():
        start(supervisor.config)
        time.sleep(POLL_SECONDS)


def start_supervisor(config: Path) -> None:
    """Start supervisord in the background, with the environment of the first one and the configuration `config`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SUPERVISOR_")}
    inherited.pop(PROCESS_VARIABLE, None)
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(start_command(), env=inherited, cwd=config.parent, timeout=START_TIMEOUT_SECONDS, umask=0o077)  # noqa: S603


if __name__ == "__main__":
    main()
