"""Set-up of every vLLM process: it logs as JSON and is killed when its parent dies."""

import ctypes
import logging
import multiprocessing
import os
import signal

from llm_service import stderr_filter
from llm_service.on_vllm import log_redaction
from onecard import logs

_PR_SET_PDEATHSIG = 1
"""From `linux/prctl.h`."""


def log_handler() -> logging.Handler:
    """Create the log handler; `logging.json` names this function, so vLLM calls it in each of its processes.

    An engine process configures its logging first, so it is tied to its parent here. `die_with_parent` as a plug-in
    would come too late: before it loads plug-ins, an engine process waits for the server, for minutes if that has died.

    Returns:
        A handler that writes JSON lines.
    """
    die_with_parent()
    logging.captureWarnings(True)
    if multiprocessing.parent_process() is not None:
        log_redaction.install(log_redaction.in_serving_loop)
    return logs.handler("llm")


def mark_serving() -> None:
    """Redact log messages and standard error from now on. The server calls it when the engine is ready."""
    log_redaction.install(log_redaction.always)
    os.write(2, b"\n" + stderr_filter.SERVING_MARKER + b"\n")


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies. Does nothing in the server, which has no vLLM parent.

    An API server that is killed cannot stop its engine process, which then keeps its memory and processors while the
    next server starts. vLLM calls this in each of its processes, through the entry point group `vllm.general_plugins`.
    """
    logging.getLogger().setLevel(os.environ.get("VLLM_LOGGING_LEVEL", "INFO"))
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        logging.getLogger(__name__).warning("prctl failed: %s", os.strerror(ctypes.get_errno()))
    if os.getppid() != parent.pid:  # The parent died before the call above.
        os.kill(os.getpid(), signal.SIGKILL)
