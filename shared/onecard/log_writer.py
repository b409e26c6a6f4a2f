"""Writes log lines to a file descriptor from a background thread, behind a bounded queue.

If the reader of our output stops, or the disk hangs, a write blocks; a pipe is full after some hundred lines. On the
event loop such a write would block every request.
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
"""Limit of queued lines: about ten thousand of them. Further lines are dropped and counted."""
BATCH_SECONDS = 0.02
"""How long lines are collected before they are written. Waking the thread for each line would take the interpreter's
lock from the event loop at each request."""
DRAIN_TIMEOUT_SECONDS = 1.0
"""At shutdown a process gives up on its remaining lines when none of them could be written for this long."""

log = logging.getLogger(__name__)


class LogWriter:
    """Writes lines to one descriptor. `write` never blocks.

    A forked process gets its own queue and thread.
    """

    def __init__(self, descriptor: int) -> None:
        """Start with an empty queue; the thread starts with the first line.

        Args:
            descriptor: an open file descriptor, such as that of standard output.
        """
        self._descriptor = descriptor
        self.dropped = 0
        """Lines lost because the queue was full, the reader had gone or the disk was full."""
        self._reported = 0
        """How many of them a log line has reported."""
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._lines: list[bytes] = []
        self._queued_bytes = 0
        self._writes = 0
        """Successful writes since the start; `drain` sees progress by it."""
        self._idle = True
        """Whether no line is queued or being written."""
        self._draining = False
        """Whether somebody waits until all lines are written."""
        self._last_write_ok = True
        """Whether the latest batch was written without loss."""
        self._changed = threading.Condition()  # Reentrant by default: signal handlers and destructors log too.
        self._thread: threading.Thread | None = None

    def write(self, line: bytes) -> None:
        """Queue one line, or drop it when the queue is full.

        Args:
            line: one encoded line with its newline.
        """
        with self._changed:
            if self._queued_bytes + len(line) > MAX_QUEUED_BYTES:
                self.dropped += 1
                return
            self._queued_bytes += len(line)
            self._lines.append(line)
            if self._idle:
                self._idle = False
                self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()
                # A child of `multiprocessing` skips `atexit`, by which `logging` would call `drain`.
                multiprocessing.util.Finalize(None, self.drain, exitpriority=-100)
            unreported = (
                self.dropped - self._reported
                if self._last_write_ok and self._queued_bytes < MAX_QUEUED_BYTES // 2
                else 0
            )
            self._reported += unreported
        if unreported:
            log.warning("%d log lines were lost, since nobody took them", unreported)

    def flush(self) -> None:
        """Do nothing: the thread writes all lines soon."""

    def drain(self) -> None:
        """Wait until all queued lines are written; give up when none was written for `DRAIN_TIMEOUT_SECONDS`."""
        with self._changed:
            written = -1
            self._draining = True
            self._changed.notify_all()
            while not self._idle and self._writes != written:
                written = self._writes
                self._changed.wait_for(lambda: self._idle, DRAIN_TIMEOUT_SECONDS)
            self._draining = False

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
                self._changed.wait_for(lambda: self._draining, BATCH_SECONDS)
                lines, self._lines = self._lines, []
            lost = sum(map(self._deliver, _groups(lines)))
            with self._changed:
                self._queued_bytes = sum(map(len, self._lines))
                self._idle = not self._lines
                self.dropped += lost
                self._last_write_ok = not lost
                self._changed.notify_all()

    def _deliver(self, group: bytes) -> int:
        """Write a group, blocking as long as needed. Returns the number of lines lost to an error."""
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
    """Join lines up to `PIPE_BUF` bytes, which a pipe takes atomically: several processes may write to one."""
    group = b""
    for line in lines:
        if group and len(group) + len(line) > select.PIPE_BUF:
            yield group
            group = b""
        group += line
    yield group


class LogWriterHandler(logging.Handler):
    """Sends the standard library's log records to a `LogWriter`. `logging` flushes handlers at exit."""

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
