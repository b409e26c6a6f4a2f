"""Graceful shutdown of the vLLM server: it stops only when its accepted requests are answered."""

import time
from collections.abc import Callable
from dataclasses import dataclass

CLOSE_SECONDS = 3
"""How long a stopping server waits for clients to read answers that are complete. uvicorn's default is no limit."""


@dataclass
class DrainState:
    """The requests in progress. Updated on the event loop and read by the thread that stops the engine."""

    in_flight: int = 0
    """Number of accepted requests that are not answered yet."""
    stopping: bool = False
    """Whether new requests are rejected because the server stops."""


def drain_before_shutdown(
    shutdown: Callable[[float | None], None], *, failed: Callable[[], bool], traffic: DrainState, seconds: float
) -> Callable[..., None]:
    """Wrap the engine's `shutdown` so that it first waits for the requests in progress.

    vLLM drains its engine by itself, but meanwhile it answers new requests with 500 and reports itself healthy. When
    the engine process has died, vLLM ends with exit code 0, as after a normal shutdown, and no supervisor restarts it.

    Args:
        shutdown: The engine's own shutdown; takes a timeout in seconds or None.
        failed: Returns whether the engine process has died.
        traffic: Requests in progress; `stopping` is set here.
        seconds: Maximum time to wait for them.

    Returns:
        The new shutdown. It raises SystemExit with a message, so exit code 1, if the engine process has died.
    """

    def drain(timeout: float | None = None) -> None:
        if traffic.stopping:  # vLLM calls this again on its way out.
            shutdown(timeout)
            return
        traffic.stopping = True
        if failed():
            shutdown(timeout)
            raise SystemExit("the engine process has died")
        deadline = time.monotonic() + seconds
        while traffic.in_flight and time.monotonic() < deadline:
            time.sleep(0.02)
        shutdown(timeout)

    return drain
