"""Where log lines go: a descriptor that may take none of them, behind a bounded queue and a thread that writes.

Whoever reads a part's output may be stopped, or the disk stand still. A write then blocks, and on the event loop it
would hold up every request: a pipe is full after some hundred lines.
"""

import logging
import multiprocessing.util
import os
import select
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress

from typing_extensions import override

MAX_QUEUED_BYTES = 4_000_000
"""Lines that wait: some ten thousand. More are dropped, and counted."""
DRAIN_TIMEOUT_SECONDS = 1.0
"""A process that ends gives up on its last lines when none of them has been taken for so long."""

log = logging.getLogger(__name__)


class LogWriter:
    """A descriptor's writer. `write` never waits. A process that is forked off has a queue and a thread of its own."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.dropped = 0
        """Lines that were lost, since too many waited, or the reader has ended, or the disk was full."""
        self._reported = 0
        """So many of them are in the log."""
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._lines: list[bytes] = []
        self._queued_bytes = 0
        self._writes = 0
        """How often something was, ever."""
        self._idle = True
        self._last_write_ok = True
        """The latest lines have been."""
        self._changed = threading.Condition()  # Reentrant, by default: signal handlers log, and so may destructors.
        self._thread: threading.Thread | None = None

    def write(self, line: bytes) -> None:
        """Have a line written, or lose it."""
        with self._changed:
            if self._queued_bytes + len(line) > MAX_QUEUED_BYTES:
                self.dropped += 1
                return
            self._queued_bytes += len(line)
            self._lines.append(line)
            self._idle = False
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()
                # A forked process of `multiprocessing` ends without the `atexit` by which `logging` calls `drain`.
                multiprocessing.util.Finalize(None, self.drain, exitpriority=-100)
            self._changed.notify()
            untold = (
                self.dropped - self._reported
                if self._last_write_ok and self._queued_bytes < MAX_QUEUED_BYTES // 2
                else 0
            )
            self._reported += untold
        if untold:
            log.warning("%d log lines were lost, since nobody took them", untold)

    def flush(self) -> None:
        """Nothing: the thread writes as fast as it can."""

    def drain(self) -> None:
        """Wait until all is written, for as long as somebody reads."""
        with self._changed:
            written = -1
            while not self._idle and self._writes != written:
                written = self._writes
                self._changed.wait_for(lambda: self._idle, DRAIN_TIMEOUT_SECONDS)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
                lines, self._lines = self._lines, []
            lost = sum(map(self._deliver, _groups(lines)))
            with self._changed:
                self._queued_bytes = sum(map(len, self._lines))
                self._idle = not self._lines
                self.dropped += lost
                self._last_write_ok = not lost
                self._changed.notify_all()

    def _deliver(self, group: bytes) -> int:
        """Write it all, however long that takes; how many lines were lost, because it cannot be done."""
        while group:
            try:
                group = group[os.write(self._descriptor, group) :]
            except BlockingIOError:
                with suppress(OSError, ValueError):
                    select.select([], [self._descriptor], [])
            except OSError:
                return group.count(b"\n")
            self._writes += 1
        return 0


def _groups(lines: Sequence[bytes]) -> Iterator[bytes]:
    """Lines together as far as a pipe takes them in one piece: several processes may write into one."""
    group = b""
    for line in lines:
        if group and len(group) + len(line) > select.PIPE_BUF:
            yield group
            group = b""
        group += line
    yield group


class LogWriterHandler(logging.Handler):
    """The standard library's way to an `LogWriter`. `logging` flushes its handlers when the process ends."""

    def __init__(self, output: LogWriter) -> None:
        super().__init__()
        self.writer = output

    @override
    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.writer.write(self.format(record).encode(errors="backslashreplace") + b"\n")
        except Exception:
            self.handleError(record)

    @override
    def flush(self) -> None:
        self.writer.drain()
