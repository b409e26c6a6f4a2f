"""JSON logs on standard output: one object a line, never a request's text.

Nothing here can redact a text after the fact, so the rule is kept at the source: callers log ids, counts,
sizes and times. Exceptions are logged as their type and the places they passed, without their message,
because a library's message may quote its input. Who does not read them holds nothing up: see `log_output`.
"""

import logging
import signal
import sys
import threading
import traceback
from typing import BinaryIO, cast

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from onecard.log_writer import LogWriter, LogWriterHandler


def _strip_exception(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Replace `exc_info` by the exception's type and its frames."""
    info = event.pop("exc_info", None)
    if isinstance(info, BaseException):
        error: BaseException | None = info
    else:
        error = info[1] if isinstance(info, tuple) else sys.exc_info()[1] if info else None
    if error is not None:
        event["error"] = type(error).__qualname__
        frames = traceback.extract_tb(error.__traceback__)
        event["trace"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    return event


def _processors(service: str) -> list[Processor]:
    """What every record passes, whichever library wrote it."""

    def add_service(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event["service"] = service
        return event

    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_service,
        _strip_exception,
    ]


def _formatter(service: str) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_processors(service),
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ],
    )


def handler(service: str) -> LogWriterHandler:
    """Writes the standard library's records to standard output as JSON, beside ours."""
    made = LogWriterHandler(current_writer() or LogWriter(sys.stdout.fileno()))
    made.setFormatter(_formatter(service))
    return made


def current_writer() -> LogWriter | None:
    """Where this process's lines go, once that is set up."""
    handlers = (one for one in logging.getLogger().handlers if isinstance(one, LogWriterHandler))
    return next((one.writer for one in handlers), None)


def dropped() -> int:
    """Lines of this process that were lost so far."""
    where = current_writer()
    return where.dropped if where else 0


def configure(service: str, level: str = "info") -> None:
    """Send structlog's and the standard library's records to standard output, in one shape.

    Ours take no way through the standard library: there an access line took a third of a refused request's time.
    """
    root = logging.getLogger()
    made = handler(service)
    structlog.configure(
        processors=[*_processors(service), structlog.processors.JSONRenderer(serializer=orjson.dumps)],
        logger_factory=structlog.BytesLoggerFactory(cast("BinaryIO", made.writer)),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        cache_logger_on_first_use=True,
    )
    root.handlers[:] = [made]
    root.setLevel(level.upper())
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _on_sigterm)
    # The edge writes one access line a request; a second one from the HTTP client or server says nothing new.
    for chatty in ("httpx2", "httpcore2", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _on_sigterm(number: int, _: object) -> None:
    """SIGTERM by default ends a process at once. uvicorn, too, raises it anew when it has done its work."""
    logging.shutdown()
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


def logger() -> FilteringBoundLogger:
    """The logger of the caller's process."""
    bound: FilteringBoundLogger = structlog.get_logger()
    return bound
