"""A heartbeat file: a process without a port touches it while it works, so that a health check can see it.

`python -m review_service.heartbeat FILE` is the health check: its exit code is 0 if FILE was touched recently.
"""

import sys
import time
from pathlib import Path

BEAT_SECONDS = 2.0
"""Interval at which a process touches its file."""
STALE_SECONDS = 20.0
"""If the file was not touched for this long, its process hangs or has ended."""


class Heartbeat:
    """The heartbeat file of one process."""

    def __init__(self, path: Path | None) -> None:
        """Remove the file that an earlier process left. With None as the path there is no file, and nothing is done."""
        self._path = path
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)

    def beat(self) -> None:
        """Touch the file. Raises OSError if that fails."""
        if self._path is not None:
            self._path.touch()


def is_alive(path: Path) -> bool:
    """Whether the file was touched within the last `STALE_SECONDS`; False if it does not exist."""
    try:
        return time.time() - path.stat().st_mtime < STALE_SECONDS
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(0 if is_alive(Path(sys.argv[1])) else 1)
