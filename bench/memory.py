"""Measures resident memory of a process and its children."""

import threading

import psutil

INTERVAL_SECONDS = 0.25


def resident_bytes(pid: int) -> int:
    """Sum the resident bytes of a process and its descendants; 0 if it has ended."""
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    return sum(map(_resident, family))


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


class PeakMemory:
    """Peak of the resident memory of a process tree inside a `with` block."""

    def __init__(self, pid: int) -> None:
        self.peak_mb = 0.0
        """In MB (10^6 bytes)."""
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def _poll(self) -> None:
        while True:
            self.peak_mb = max(self.peak_mb, resident_bytes(self._pid) / 1e6)
            if self._stop.wait(INTERVAL_SECONDS):
                return

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
