"""Which requests the vLLM server is answering, so that it stops only when they have their answers."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class DrainState:
    """Counted on the event loop; read by the thread that stops the engine."""

    in_flight: int = 0
    stopping: bool = False


def drain_before_shutdown(
    shutdown: Callable[[float | None], None], *, failed: Callable[[], bool], traffic: DrainState, seconds: float
) -> Callable[..., None]:
    """The engine's `shutdown`, after every accepted request is answered or `seconds` have passed.

    vLLM by itself drains its engine, but answers what arrives meanwhile with 500 and calls itself healthy; and
    when its engine has died it ends with exit code 0, as if that had been asked for.

    Args:
        failed: whether the engine has died.
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
