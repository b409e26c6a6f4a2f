"""Which requests the vLLM server is answering, so that it stops only when they have their answers."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Traffic:
    """Counted on the event loop; read by the thread that stops the engine."""

    in_flight: int = 0
    draining: bool = False


def drain_before(shutdown: Callable[[float | None], None], traffic: Traffic, seconds: float) -> Callable[..., None]:
    """The engine's `shutdown`, after every accepted request is answered or `seconds` have passed.

    vLLM by itself drains its engine but answers what arrives meanwhile with 500, and calls itself healthy.
    """

    def drain(timeout: float | None = None) -> None:
        traffic.draining = True
        deadline = time.monotonic() + seconds
        while traffic.in_flight and time.monotonic() < deadline:
            time.sleep(0.02)
        shutdown(timeout)

    return drain
