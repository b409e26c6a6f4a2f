"""Removes request data from the log records of vLLM and its libraries.

Their messages quote parameters, grammars and texts of requests. So once requests are served, a message is logged only
if it is a constant in the source code of the caller; of its arguments only numbers are filled in. Other messages (an
f-string, an exception's text) are replaced by the file and line of the call. Of an exception its type is logged.
"""

import logging
import sys
import threading
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

REDACTED = "a message that may quote a request is left out"
_SERVING_LOOPS = frozenset({"run_busy_loop", "worker_busy_loop"})
"""Names of vLLM's functions in which the engine's processes serve requests."""

_NUMERIC_LOGGER_FILE = "/vllm/v1/metrics/loggers.py"
"""Its messages are f-strings of throughputs and counts, so they are logged unchanged."""

RecordFactory = Callable[..., logging.LogRecord]


def install(when: Callable[[], bool]) -> None:
    """Redact the log records of this process.

    Args:
        when: Called for each record, on the thread that logs; returns whether to redact the record.
    """
    original = logging.getLogRecordFactory()

    def redacted(name: str, level: int, path: str, line: int, message: Any, args: Any, *rest: Any, **more: Any) -> Any:
        if when() and not path.endswith(_NUMERIC_LOGGER_FILE):
            message, args = redact(message, args, _calling_frame(path, line))
            if message == REDACTED:
                message, args = f"{REDACTED} (%s:%d)", (path.rpartition("/")[2], line)
        return original(name, level, path, line, message, args, *rest, **more)

    logging.setLogRecordFactory(redacted)


def always() -> bool:
    """Condition for `install` in the server process: every record is redacted."""
    return True


def in_serving_loop() -> bool:
    """Condition for `install` in the engine's processes: redact once requests may be served.

    Returns:
        Whether the record comes from another thread than the main one (those compile grammars of requests), or from
        the main thread inside a serving loop, that is after the model was loaded.
    """
    if threading.current_thread() is not threading.main_thread():
        return True
    return any(frame.f_code.co_name in _SERVING_LOOPS for frame in _frames())


def redact(message: Any, args: Any, frame: FrameType | None) -> tuple[str, Any]:
    """Redact a message and its arguments.

    Args:
        message: The message, with `%` placeholders.
        args: The arguments for the placeholders, as `logging` has them: a tuple, possibly of one mapping.
        frame: The stack frame that logged the message; None if it was not found, and the message is then replaced.

    Returns:
        The message or `REDACTED`, and arguments in which everything but numbers is replaced.
    """
    if frame is None or not isinstance(message, str) or message not in frame.f_code.co_consts:
        return REDACTED, ()
    if len(args) == 1 and isinstance(args[0], Mapping) and "%(" in message:
        return message, ({name: _redact_argument(value) for name, value in args[0].items()},)
    return message, tuple(map(_redact_argument, args))


def _redact_argument(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    return type(value).__name__ if isinstance(value, BaseException) else "…"


def _calling_frame(path: str, line: int) -> FrameType | None:
    return next((frame for frame in _frames() if frame.f_lineno == line and frame.f_code.co_filename == path), None)


def _frames() -> Any:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back
