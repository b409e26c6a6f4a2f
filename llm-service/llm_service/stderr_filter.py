"""Turns the standard error of vLLM's processes into JSON log lines. Runs beside vLLM: `python stderr_filter.py`.

Libraries in C++ and Rust write to standard error directly, past Python's logging. Their lines may quote a request: a
schema's `$ref`, thousands of times, with line breaks that the client sent. So standard error is a pipe to this
process, which still reads it after a crash of vLLM. Before the server accepts requests, lines are logged unchanged.
After that, only lines that cannot contain request data are logged; the others are counted.

The script uses only the standard library and ends when all writers have closed the pipe.
"""

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

SERVING_MARKER = b"onecard: requests come from now on"
"""vLLM's server writes this line when it starts to accept requests. The switch is final, so a request cannot undo it
by having a line of its own printed."""
MAX_LINE_BYTES = 1000
"""Longer lines are cut. A JSON record then stays below 4,096 bytes (PIPE_BUF): if poll says that a pipe is writable,
a write of at most that size does not block."""
SUMMARY_INTERVAL_SECONDS = 10.0
"""Minimum time between two records that count withheld lines."""
_FATAL_ERROR = re.compile(
    rb"Fatal Python error: (Aborted|Bus error|Floating-point exception|Illegal instruction|Segmentation fault)"
    rb"|terminate called (recursively|without an active exception|after throwing an instance of 'std::bad_alloc')"
)
_TRACEBACK_FRAME = re.compile(rb' +File "([^"]+\.py)", line \d+,? in [\w.<>]+')


class StderrFilter:
    """Turns bytes into log records. Pure, except that it checks whether the files in a traceback exist."""

    def __init__(self) -> None:
        self._serving = False
        self._partial_line = b""
        self._withheld_lines = self._withheld_bytes = 0
        self._last_summary: float | None = None

    def feed(self, data: bytes, now: float) -> Iterator[dict[str, object]]:
        """Add bytes that were read.

        Args:
            data: Bytes, not necessarily whole lines.
            now: Time in seconds on any clock that does not go back; the same clock for all calls.

        Yields:
            A record for each complete line that may be logged, then a summary if one is due.
        """
        *complete, rest = re.split(rb"[\r\n]+", self._partial_line + data)
        self._partial_line = rest[: MAX_LINE_BYTES + 1]
        for line in complete:
            if line.strip():
                yield from self._record(line)
        yield from self.summary(now)

    def end(self) -> Iterator[dict[str, object]]:
        """End the input.

        Yields:
            A record for the last line if it had no line break, then a summary of what is withheld.
        """
        yield from self.feed(b"\n", float("inf"))

    def summary(self, now: float) -> Iterator[dict[str, object]]:
        """Count the withheld lines, at most once every `SUMMARY_INTERVAL_SECONDS`.

        Args:
            now: As for `feed`.

        Yields:
            One record with the number of lines and bytes since the last one, if a record is due.
        """
        if self._withheld_lines and (
            self._last_summary is None or now - self._last_summary >= SUMMARY_INTERVAL_SECONDS
        ):
            event = "output of a library that may quote a request is left out"
            yield {"event": event, "lines": self._withheld_lines, "bytes": self._withheld_bytes, "level": "warning"}
            self._withheld_lines = self._withheld_bytes = 0
            self._last_summary = now

    def _record(self, line: bytes) -> Iterator[dict[str, object]]:
        if line == SERVING_MARKER:
            self._serving = True
        elif not self._serving or _FATAL_ERROR.fullmatch(line) or _is_frame(line):
            yield {"event": line[:MAX_LINE_BYTES].decode(errors="replace"), "level": "info"}
        else:
            self._withheld_lines += 1
            self._withheld_bytes += len(line)


def _is_frame(line: bytes) -> bool:
    """Whether the line is a traceback's reference to a source file that exists here."""
    match = _TRACEBACK_FRAME.fullmatch(line)
    return match is not None and os.path.isfile(match[1])


def redirect_stderr() -> None:
    """Start the filter and make it the standard error of this process and its children, also after an exec.

    Raises:
        OSError: The filter's process cannot be started.
    """
    read_end, write_end = os.pipe()
    subprocess.Popen([sys.executable, "-I", "-S", Path(__file__)], stdin=read_end)  # noqa: S603 - this very file
    os.dup2(write_end, 2)
    os.close(read_end)
    os.close(write_end)


def _write(record: dict[str, object]) -> None:
    """Write a record as one line of JSON. If standard output is full the record is dropped: vLLM must not block."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    entry = {**record, "timestamp": stamp, "service": "llm", "stream": "stderr"}
    line = json.dumps(entry, ensure_ascii=False).encode() + b"\n"
    writable = select.poll()
    writable.register(1, select.POLLOUT)
    try:
        if writable.poll(0):
            os.write(1, line)
    except OSError:
        pass


def main() -> None:
    """Filter standard input to standard output until all writers have closed it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # vLLM gets them too; the filter stays to log what vLLM writes last.
    lines = StderrFilter()
    while True:
        readable, _, _ = select.select([0], [], [], SUMMARY_INTERVAL_SECONDS)
        data = os.read(0, 65536) if readable else None
        if data == b"":
            break
        for record in lines.feed(data, time.monotonic()) if data else lines.summary(time.monotonic()):
            _write(record)
    for record in lines.end():
        _write(record)


if __name__ == "__main__":
    main()
