"""Inside a service that is walked through: notes what runs of ours, in all threads. `walk.py` starts it."""

import asyncio
import importlib.metadata
import inspect
import json
import os
import runpy
import sys
import threading
import time
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

DISTRIBUTIONS = "onecard"
"""What the names of our distributions begin with."""
NO_FUNCTIONS = {"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>", "<module>"}
QUIET_SECONDS = 0.06
"""A request is over when nothing of ours has run for so long."""


def our_packages() -> frozenset[str]:
    """The top-level packages of our distributions."""
    found = importlib.metadata.packages_distributions()
    return frozenset(
        package for package, owners in found.items() if any(owner.startswith(DISTRIBUTIONS) for owner in owners)
    )


class Recorder:
    """What runs of ours, in all threads, while it is on."""

    def __init__(self, ours: frozenset[str]) -> None:
        self._ours = ours
        self._modules: dict[str, str | None] = {}
        self._starts: dict[tuple[CodeType, int], bool] = {}
        self.events: list[Any] = []
        """Of each call, and of each coroutine that goes on: the module, whether a frame begins, whether control comes
        from outside the module, whether it is a coroutine, and the frame. Words are marks."""
        self.on = False

    def hook(self, frame: FrameType, event: str, _: object) -> None:
        """For `sys.setprofile`."""
        if not self.on or event != "call":
            return
        module = self._module(frame)
        code = frame.f_code
        if module is None or code.co_name in NO_FUNCTIONS or code.co_filename.startswith("<"):
            return
        waits = bool(code.co_flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR))
        entered = self._module(frame.f_back) != module
        self.events.append((module, self._begins(code, frame.f_lasti), entered, waits, id(frame)))

    def _module(self, frame: FrameType | None) -> str | None:
        """The module of ours that a frame is in; none for a library's."""
        if frame is None:
            return None
        spec = frame.f_globals.get("__spec__")  # It tells `__main__` by its own name.
        name: str = spec.name if spec else frame.f_globals.get("__name__", "")
        if name not in self._modules:
            self._modules[name] = name if name.split(".")[0] in self._ours else None
        return self._modules[name]

    def _begins(self, code: CodeType, at: int) -> bool:
        """Whether a frame begins here; a coroutine or a generator may go on instead. The RESUME there says which."""
        known = self._starts.get((code, at))
        if known is None:
            known = self._starts[code, at] = code.co_code[at + 1] & 3 == 0
        return known


class ToldTransport:
    """A client's transport, which notes when something is written to it."""

    def __init__(self, transport: asyncio.Transport, events: list[Any]) -> None:
        self._transport = transport
        self._events = events

    def __getattr__(self, name: str) -> Any:
        """Everything else is the transport's own."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Note it, and write."""
        self._events.append("written")
        self._transport.write(data)

    def writelines(self, lines: Any) -> None:
        """Note it, and write."""
        self._events.append("written")
        self._transport.writelines(lines)


def note_writes(recorder: Recorder) -> None:
    """Give servers on uvloop transports that note what is written to clients."""
    import uvloop

    plain = uvloop.Loop.create_server

    async def create_server(loop: Any, factory: Callable[[], Any], *args: Any, **options: Any) -> Any:
        def make() -> Any:
            protocol = factory()
            made = protocol.connection_made
            protocol.connection_made = lambda transport: made(ToldTransport(transport, recorder.events))
            return protocol

        return await plain(loop, make, *args, **options)

    uvloop.Loop.create_server = create_server


def obey(recorder: Recorder, answers: int) -> None:
    """Take orders from standard input, and answer each with a line of JSON."""
    for order in sys.stdin:
        reply: Any = None
        match order.strip():
            case "begin":
                settle(recorder)
                recorder.events.clear()
                recorder.on = True
            case "mark":
                settle(recorder)
                recorder.events.append("mark")
            case "end":
                settle(recorder)
                recorder.on = False
                reply = recorder.events
        os.write(answers, json.dumps(reply).encode() + b"\n")


def settle(recorder: Recorder) -> None:
    """Wait until nothing of ours runs."""
    seen, since = -1, time.monotonic()
    while time.monotonic() - since < QUIET_SECONDS:
        if len(recorder.events) != seen:
            seen, since = len(recorder.events), time.monotonic()
        time.sleep(0.005)


def main() -> None:
    """Run a service under the hook, until it is told to end."""
    service, answers = sys.argv[1:]
    recorder = Recorder(our_packages())
    note_writes(recorder)
    # Its own thread is not watched: the hook is for those that start from here on.
    threading.Thread(target=obey, args=(recorder, int(answers)), daemon=True).start()
    threading.setprofile(recorder.hook)
    sys.setprofile(recorder.hook)
    sys.argv = [service]
    runpy.run_module(service, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
