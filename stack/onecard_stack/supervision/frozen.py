"""Ends a service whose process is frozen, so that supervisord starts it again.

A service finds by itself when its engine hangs (`onecard.web.canary`). What it cannot find is that it stands still
itself: stopped by a signal, or deadlocked.
"""

import os
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from onecard import probe
from onecard_stack.processes import command_file, orphans, process_launcher
from onecard_stack.supervision.supervisor import Supervisor

POLL_SECONDS = 2.0
FROZEN_SECONDS = 20.0
"""A process that has answered once, and then neither answers nor computes for this long, is frozen."""
MIN_CPU_SECONDS = 1.0
"""A process that has used this much processor time meanwhile is busy."""


@dataclass
class Lifeline:
    """The last sign of life of one process. The time is an argument."""

    pid: int
    seen: float | None = None
    """Time of it, in seconds of a monotonic clock; None before the first answer: a process that starts may be silent
    for long, and its port refuses until it is bound."""
    cpu_seconds: float = 0.0
    """Processor time that it had used then."""

    def is_frozen(self, look: probe.Look, *, cpu_seconds: float, now: float) -> bool:
        """Take note of a look at the process.

        Args:
            look: what it did.
            cpu_seconds: processor time that it has used since its start.
            now: time of the look.

        Returns:
            Whether it is frozen.
        """
        computed = cpu_seconds - self.cpu_seconds >= MIN_CPU_SECONDS
        if look == "answered" or (self.seen is not None and (look == "refused" or computed)):
            self.seen, self.cpu_seconds = now, cpu_seconds
        return self.seen is not None and now - self.seen >= FROZEN_SECONDS


@dataclass
class FrozenWatch:
    """Looks at all services of a stack that have a port for HTTP."""

    supervisor: Supervisor
    _lifelines: dict[str, Lifeline] = field(default_factory=dict)

    def look(self) -> list[str]:
        """Look at each service once, and kill those that are frozen.

        Returns:
            Names of the killed.
        """
        killed = []
        pids = {name: state.pid for name, state in self.supervisor.states().items() if state.state == "RUNNING"}
        for name, (host, port) in self._addresses().items():
            pid = self._main_process(name, pids.get(name))
            if pid and self._is_frozen(name, pid, host, port):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)  # A stopped process takes no other signal.
                killed.append(name)
        return killed

    def _addresses(self) -> Mapping[str, tuple[str, int]]:
        with suppress(OSError, ValueError):
            return command_file.read_addresses(self.supervisor.run_folder)
        return {}

    def _main_process(self, name: str, pid: int | None) -> int | None:
        """The process that serves: after a restart of supervisord it has only a launcher that waits for it."""
        with suppress(psutil.Error):
            if pid and not process_launcher.is_main_process(psutil.Process(pid)):
                left = filter(process_launcher.is_main_process, orphans.find(self.supervisor.run_folder, name))
                return next((process.pid for process in left), pid)
        return pid

    def _is_frozen(self, name: str, pid: int, host: str, port: int) -> bool:
        lifeline = self._lifelines.get(name)
        if lifeline is None or lifeline.pid != pid:
            lifeline = self._lifelines[name] = Lifeline(pid)
        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.Error:
            return False
        return lifeline.is_frozen(probe.look(host, port), cpu_seconds=times.user + times.system, now=time.monotonic())


def watch_in_background(supervisor: Supervisor) -> None:
    """Look at the services of this supervisord for as long as this process lives.

    Args:
        supervisor: of the stack.
    """

    def run() -> None:
        watch = FrozenWatch(supervisor)
        while True:
            time.sleep(POLL_SECONDS)
            try:
                killed = watch.look()
            except Exception as error:
                print(f"frozen services are not looked for now: {type(error).__name__}", flush=True)
                continue
            for name in killed:
                print(f"{name} did not answer and did not compute for {FROZEN_SECONDS:g} s: ended", flush=True)

    threading.Thread(target=run, name="frozen", daemon=True).start()
