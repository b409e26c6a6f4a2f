"""Log records of vLLM and its libraries without what a request brought.

Their messages quote parameters, grammars and texts. So once requests come, a message is what the source code says: a
text that is a constant at the place of the call, with the numbers that were filled in. What was put together
otherwise (an f-string, an exception's message) is left out; the place and the kind of an exception stay.
"""

import logging
import sys
import threading
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

REDACTED = "a message that may quote a request is left out"
_SERVING_LOOPS = frozenset({"run_busy_loop", "worker_busy_loop"})
"""Functions of vLLM in which the engine's processes do what requests ask for."""

_NUMERIC_LOGGER_FILE = "/vllm/v1/metrics/loggers.py"
"""It puts its lines together, from throughputs and counts."""

RecordFactory = Callable[..., logging.LogRecord]


def install(when: Callable[[], bool]) -> None:
    """Make the records of this process discreet, from where `when` says so."""
    made = logging.getLogRecordFactory()

    def discreet(name: str, level: int, path: str, line: int, message: Any, args: Any, *rest: Any, **more: Any) -> Any:
        if when() and not path.endswith(_NUMERIC_LOGGER_FILE):
            message, args = redact(message, args, _calling_frame(path, line))
            if message == REDACTED:
                message, args = f"{REDACTED} (%s:%d)", (path.rpartition("/")[2], line)
        return made(name, level, path, line, message, args, *rest, **more)

    logging.setLogRecordFactory(discreet)


def always() -> bool:
    """In the process that answers requests, once it does."""
    return True


def in_serving_loop() -> bool:
    """In the engine's processes: threads compile what requests bring, and the main thread loads the model first."""
    if threading.current_thread() is not threading.main_thread():
        return True
    return any(frame.f_code.co_name in _SERVING_LOOPS for frame in _frames())


def redact(message: Any, args: Any, frame: FrameType | None) -> tuple[str, Any]:
    """Message and arguments as they may be logged.

    Args:
        frame: the place of the call, if it is known.
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
    return next((one for one in _frames() if one.f_lineno == line and one.f_code.co_filename == path), None)


def _frames() -> Any:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back
