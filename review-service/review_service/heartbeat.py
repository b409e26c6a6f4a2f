"""A file that a process without a port touches while it works, for whoever watches over it.

`python -m review_service.heartbeat FILE`: exit code 0 if the process that touches FILE works; for health checks.
"""

import sys
import time
from pathlib import Path

BEAT_SECONDS = 2.0
STALE_SECONDS = 20.0
"""A file that was touched longer ago is that of a process that hangs, or has ended."""


class Heartbeat:
    """The file of one process; None: nobody watches."""

    def __init__(self, path: Path | None) -> None:
        """Forget what an earlier process has left."""
        self._path = path
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)

    def beat(self) -> None:
        """The process works."""
        if self._path is not None:
            self._path.touch()


def is_alive(path: Path) -> bool:
    """The process that touches this file works."""
    try:
        return time.time() - path.stat().st_mtime < STALE_SECONDS
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(0 if is_alive(Path(sys.argv[1])) else 1)
