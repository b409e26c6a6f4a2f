"""Stopping a stack. Needs no settings but its folder: it must work whatever a person has written into them since."""

import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onecard_stack.processes import command_file, orphans
from onecard_stack.supervision.supervisor import SOCKET_FILE, Supervisor

GRACE_SECONDS = 20.0
"""How long a part may take to stop, where no written configuration says it."""
SUPERVISOR_MARGIN_SECONDS = 10.0
"""What supervisord itself may take."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def stop(run_folder: Path) -> bool:
    """Stop all parts, gracefully where they let us. Returns False if nothing ran."""
    supervisor = Supervisor(run_folder)
    graces = grace_seconds(supervisor.config)
    ran = supervisor.running()
    in_order = ran and supervisor.shut_down(sum(graces) + SUPERVISOR_MARGIN_SECONDS)
    # What is left after an orderly end has had its time.
    ended = orphans.terminate_all(run_folder, 1.0 if in_order else max(graces))
    (run_folder / SOCKET_FILE).unlink(missing_ok=True)
    shutil.rmtree(command_file.scratch_folder(run_folder), ignore_errors=True)
    return ran or ended > 0


def grace_seconds(config: Path) -> list[float]:
    """How long each part may take, as the configuration says that the running stack was started with."""
    try:
        text = config.read_text(errors="replace")
    except (OSError, ValueError):
        text = ""
    return [float(seconds) for seconds in re.findall(r"^stopwaitsecs=(\d+)$", text, re.MULTILINE)] or [GRACE_SECONDS]


@contextmanager
def ignoring_signals() -> Iterator[None]:
    """Tidying up goes on to its end, also when Ctrl-C is pressed again or the terminal is closed."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
