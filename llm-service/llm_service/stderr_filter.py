"""What vLLM's processes write to standard error, as JSON lines: `python stderr.py`, beside vLLM.

Libraries in C++ and Rust write there what they please: a schema's `$ref`, a line for each of thousands of them, with
line ends that a request has put in. No handler of Python's sees it, so it goes through a pipe to this process, which
outlives a crash and tells its last words. Until requests come, lines are told as they are. Afterwards only those are
that cannot be a request's; the others are counted. It needs nothing but the standard library, and ends when the last
writer has ended.
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
"""vLLM's server writes this line when they do. There is no way back: a request cannot feign an earlier time."""
MAX_LINE_BYTES = 1000
"""Of one line; the rest of it is dropped. A record then has less than the 4,096 bytes that a pipe takes at once: with
more, whoever says that there is room would still wait."""
SUMMARY_INTERVAL_SECONDS = 10.0
_FATAL_ERROR = re.compile(
    rb"Fatal Python error: (Aborted|Bus error|Floating-point exception|Illegal instruction|Segmentation fault)"
    rb"|terminate called (recursively|without an active exception|after throwing an instance of 'std::bad_alloc')"
)
_TRACEBACK_FRAME = re.compile(rb' +File "([^"]+\.py)", line \d+,? in [\w.<>]+')


class StderrFilter:
    """Bytes as they come → records. Pure, but for looking whether a file of a traceback is there."""

    def __init__(self) -> None:
        self._serving = False
        self._partial_line = b""
        self._withheld_lines = self._withheld_bytes = 0
        self._last_summary: float | None = None

    def feed(self, data: bytes, now: float) -> Iterator[dict[str, object]]:
        """Records of what is whole. `now` in seconds, on any clock."""
        *whole, rest = re.split(rb"[\r\n]+", self._partial_line + data)
        self._partial_line = rest[: MAX_LINE_BYTES + 1]
        for line in whole:
            if line.strip():
                yield from self._record(line)
        yield from self.summary(now)

    def end(self) -> Iterator[dict[str, object]]:
        """Records of what is left when there is nothing more to come."""
        yield from self.feed(b"\n", float("inf"))

    def summary(self, now: float) -> Iterator[dict[str, object]]:
        """How much was left out, every `SUMMARY_INTERVAL_SECONDS` at most."""
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
    """A place in a source file that is there, in a traceback."""
    match = _TRACEBACK_FRAME.fullmatch(line)
    return match is not None and os.path.isfile(match[1])


def redirect_stderr() -> None:
    """Send this process's standard error, and that of all it becomes and starts, through a process of this module's.

    Raises:
        OSError: it cannot be started.
    """
    reading, writing = os.pipe()
    subprocess.Popen([sys.executable, "-I", "-S", Path(__file__)], stdin=reading)  # noqa: S603 - this very file
    os.dup2(writing, 2)
    os.close(reading)
    os.close(writing)


def _write(record: dict[str, object]) -> None:
    """A line, or none if nobody reads: whoever writes to us must not wait."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    told = {**record, "timestamp": stamp, "service": "llm", "stream": "stderr"}
    line = json.dumps(told, ensure_ascii=False).encode() + b"\n"
    writable = select.poll()
    writable.register(1, select.POLLOUT)
    try:
        if writable.poll(0):
            os.write(1, line)
    except OSError:
        pass


def main() -> None:
    """Read to the end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # They are meant for those who write; their last words are to be told.
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
