"""What every vLLM process does when it starts: log as JSON, and never outlive its parent."""

import ctypes
import logging
import multiprocessing
import os
import signal

from llm_service import stderr_filter
from llm_service.on_vllm import log_redaction
from onecard import logs

_PR_SET_PDEATHSIG = 1


def log_handler() -> logging.Handler:
    """The handler that `logging.json` names.

    Setting up its log is the first thing that an engine process does, so it is tied to its parent here: before it
    loads plug-ins it waits for the server, for minutes if that is gone.
    """
    die_with_parent()
    logging.captureWarnings(True)
    if multiprocessing.parent_process() is not None:
        log_redaction.install(log_redaction.in_serving_loop)
    return logs.handler("llm")


def mark_serving() -> None:
    """From now on nothing that is logged may quote a request; for the server, whose engine is ready."""
    log_redaction.install(log_redaction.always)
    os.write(2, b"\n" + stderr_filter.SERVING_MARKER + b"\n")


def die_with_parent() -> None:
    """Entry point `vllm.general_plugins`; vLLM calls it in each of its processes.

    An API server that is killed cannot stop its engine process, which then keeps the memory and the processors
    for itself while the next one starts. So the kernel is asked to kill each child when its parent is gone.
    """
    logging.getLogger().setLevel(os.environ.get("VLLM_LOGGING_LEVEL", "INFO"))
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        logging.getLogger(__name__).warning("prctl failed: %s", os.strerror(ctypes.get_errno()))
    if os.getppid() != parent.pid:  # It died between our start and the call above.
        os.kill(os.getpid(), signal.SIGKILL)
