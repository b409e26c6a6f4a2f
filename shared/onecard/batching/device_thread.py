"""The only thread that touches the model."""

import asyncio
import queue
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

SWITCH_INTERVAL_SECONDS = 0.00005
"""How long the event loop may hold the interpreter lock while this thread waits for it. A batch of BERT-base has 450
operations, and the thread needs the lock again after each. With Python's default of 5 ms each of them would wait for a
whole request while the loop refuses a burst of requests."""


class DeviceThread:
    """Runs functions one after another on a thread of its own.

    The model is loaded on this thread too: OpenMP keeps a team of threads for every thread that has ever computed, and
    once these teams outnumber the cores, they stop spinning between operations. Measured on two cores: one text took 30
    ms instead of 19 ms when the main thread had loaded the model.
    """

    def __init__(self) -> None:
        sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
        self._functions: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # A daemon thread: a hanging device must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._thread.start()

    async def call(self, function: Callable[[], T]) -> T:
        """Run a function on the thread and wait for it.

        Args:
            function: called without arguments.

        Returns:
            What `function` returns.

        Raises:
            BaseException: whatever `function` raises.
        """
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()

        def run() -> None:
            try:
                result = function()
            except BaseException as error:
                loop.call_soon_threadsafe(outcome.set_exception, error)
            else:
                loop.call_soon_threadsafe(outcome.set_result, result)

        self._functions.put(run)
        return await outcome

    def run(self, function: Callable[[], None]) -> None:
        """Run a function on the thread without waiting for it.

        Args:
            function: handles its own errors.
        """
        self._functions.put(function)

    def stop(self, seconds: float) -> None:
        """Let the thread end after everything queued so far, and wait for that.

        Args:
            seconds: longest wait.
        """
        self._functions.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        while function := self._functions.get():
            function()
