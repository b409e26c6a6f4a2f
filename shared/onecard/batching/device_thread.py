"""The one thread that ever touches the model."""

import asyncio
import queue
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

SWITCH_INTERVAL_SECONDS = 0.00005
"""How long the event loop may go on in Python while this thread waits to. A batch of BERT-base has 450 operations,
after each of which the thread needs the interpreter's lock again; Python's 5 ms would make each of them wait for a
whole request while the loop refuses a crowd."""


class DeviceThread:
    """Runs what it is given, one after another.

    The model is loaded here too, not just run: OpenMP keeps a team of threads for each thread that ever computed, and
    once there are more of them than cores they stop spinning between operations. Measured on two cores: one text
    took 30 ms instead of 19 ms after the main thread had loaded the model.
    """

    def __init__(self) -> None:
        sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
        self._functions: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # A daemon, so that a device that hangs cannot keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._thread.start()

    async def call(self, function: Callable[[], T]) -> T:
        """The result of `function`, run on the thread; what it raises is raised here."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def run() -> None:
            try:
                result = function()
            except BaseException as error:
                loop.call_soon_threadsafe(answer.set_exception, error)
            else:
                loop.call_soon_threadsafe(answer.set_result, result)

        self._functions.put(run)
        return await answer

    def run(self, function: Callable[[], None]) -> None:
        """Run `function`, which takes care of its own errors, without waiting for it."""
        self._functions.put(function)

    def stop(self, seconds: float) -> None:
        """Wait until everything has run, for at most `seconds`."""
        self._functions.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        while function := self._functions.get():
            function()
