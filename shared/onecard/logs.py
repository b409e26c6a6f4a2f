"""JSON logs on standard output: one object per line, never the text of a request.

No filter could remove such text afterwards, so callers must not log it: they log ids, counts, sizes and times.
Exceptions are logged as their type and stack frames, without their message, because a library's message may quote its
input. A slow reader of the logs does not block requests: see `log_writer`.
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
    """Replace `exc_info` with the exception's type and stack frames."""
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
    """Processors for every record, from structlog and from the standard library."""

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
    """A handler that writes the standard library's records to standard output as JSON.

    Args:
        service: the value of each line's `service` field.

    Returns:
        A handler that shares this process's writer, or has a new one if logging is not configured yet.
    """
    log_handler = LogWriterHandler(current_writer() or LogWriter(sys.stdout.fileno()))
    log_handler.setFormatter(_formatter(service))
    return log_handler


def current_writer() -> LogWriter | None:
    """The writer that this process logs to; None before `configure`."""
    handlers = (each for each in logging.getLogger().handlers if isinstance(each, LogWriterHandler))
    return next((each.writer for each in handlers), None)


def dropped() -> int:
    """How many log lines this process has lost."""
    writer = current_writer()
    return writer.dropped if writer else 0


def configure(service: str, level: str = "info") -> None:
    """Send structlog's and the standard library's records to standard output in the same JSON format.

    structlog's records do not pass through the standard library: there, an access line took a third of the time of a
    refused request.

    Args:
        service: the value of each line's `service` field.
        level: lowest level that is logged: debug, info, warning or error.
    """
    root = logging.getLogger()
    log_handler = handler(service)
    structlog.configure(
        processors=[*_processors(service), structlog.processors.JSONRenderer(serializer=orjson.dumps)],
        logger_factory=structlog.BytesLoggerFactory(cast("BinaryIO", log_handler.writer)),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        cache_logger_on_first_use=True,
    )
    root.handlers[:] = [log_handler]
    root.setLevel(level.upper())
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _on_sigterm)
    # The request middleware writes one access line per request; the HTTP client's and server's would repeat it.
    for library in ("httpx2", "httpcore2", "uvicorn.access"):
        logging.getLogger(library).setLevel(logging.WARNING)


def _on_sigterm(number: int, _: object) -> None:
    """Flush the logs, then end: by default SIGTERM ends a process at once, and uvicorn raises it again at its end."""
    logging.shutdown()
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


def logger() -> FilteringBoundLogger:
    """A structlog logger; it gets its configuration when it is first used."""
    bound: FilteringBoundLogger = structlog.get_logger()
    return bound
