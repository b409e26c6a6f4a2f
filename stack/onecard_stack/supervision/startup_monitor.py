"""Interprets the states of the processes while the stack starts. Pure, except that it reads the log of a failed one."""

import json
from collections.abc import Mapping
from pathlib import Path

from onecard.models.folders import ModelFolder, ModelKind
from onecard_stack.errors import StackError
from onecard_stack.processes.process_table import Process
from onecard_stack.supervision.progress import ProcessRow
from onecard_stack.supervision.supervisor import ProcessState

SILENT_SECONDS = 10.0
"""How long supervisord may give no answer: a busy machine delays it, and one that was killed is restarted."""
MAX_STARTS = 3
"""A process that was started this often and is still not ready counts as crashing again and again."""


class StartupMonitor:
    """Follows the processes from one poll to the next."""

    def __init__(self, processes: list[Process], log_folder: Path, folders: Mapping[ModelKind, ModelFolder]) -> None:
        self._processes = processes
        self._log_folder = log_folder
        self._models = {kind: _model_label(folder) for kind, folder in folders.items()}
        self._start_times: dict[str, set[float]] = {process.name: set() for process in processes}
        self._states: Mapping[str, ProcessState] = {}
        self._silent_since: float | None = None
        self._is_gone = False
        self._ready: Mapping[str, bool] = {}
        self._log_sizes = {process.name: self._log_size(process.name) for process in processes}

    def update(
        self, states: Mapping[str, ProcessState], ready: Mapping[str, bool], now: float
    ) -> dict[str, ProcessRow]:
        """Record the result of one poll.

        Args:
            states: supervisord's state of each process, by name; empty if supervisord does not run or does not answer,
                and then the latest ones go on to hold.
            ready: readiness of each process, by name.
            now: time of the poll, in seconds of a monotonic clock.

        Returns:
            One row to display per process, by name, in the order of the process table.
        """
        self._states, self._ready = states or self._states, ready
        self._silent_since = None if states else self._silent_since or now
        self._is_gone = self._silent_since is not None and now - self._silent_since >= SILENT_SECONDS
        for state in states.values():
            if state.pid and state.name in self._start_times:
                self._start_times[state.name].add(state.started)
        return {
            one.name: ProcessRow(one.name, self._state_word(one), self._models.get(one.name, ""), one.port)  # type: ignore[call-overload]
            for one in self._processes
        }

    def _state_word(self, process: Process) -> str:
        state = self._states.get(process.name)
        if self._ready.get(process.name):
            return "ready"
        if state is None or state.state in ("STOPPED", "STOPPING", "FATAL"):
            return "stopped"
        if state.state in ("BACKOFF", "EXITED") or len(self._start_times[process.name]) > 1:
            return "restarting"
        if not all(self._ready.get(name) for name in process.waits_for):
            return "waiting"
        return "loading" if process.model else "starting"

    def raise_for_failure(self) -> None:
        """Raise an error if waiting longer is useless.

        Raises:
            StackError: a process cannot be started or keeps crashing, or the stack was stopped meanwhile.
        """
        if self._is_gone:
            raise StackError("The stack was stopped while it started.")
        for process in self._processes:
            state = self._states.get(process.name)
            if state is not None and state.spawn_error and not state.pid:
                raise StackError(f"{process.name} cannot be started: {state.spawn_error}.")
            if not self._ready.get(process.name) and len(self._start_times[process.name]) >= MAX_STARTS:
                raise StackError(
                    f"{process.name} keeps crashing: {self._last_log_line(process.name)} "
                    f"Its log: {self._log_path(process.name)}"
                )

    def timeout_error(self, seconds: float) -> StackError:
        """Make the error for processes that are not ready in time.

        Args:
            seconds: the timeout that has passed.

        Returns:
            An error that names those processes and the first one's log.
        """
        names = [process.name for process in self._processes if not self._ready.get(process.name)]
        return StackError(
            f"{' and '.join(names)} not ready after START_SECONDS={seconds:g}. Set it higher, "
            f"or see the log: {self._log_path(names[0])}"
        )

    def _log_path(self, name: str) -> Path:
        path = self._log_folder / f"{name}.log"
        return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path

    def _log_size(self, name: str) -> int:
        path = self._log_folder / f"{name}.log"
        return path.stat().st_size if path.exists() else 0

    def _last_log_line(self, name: str) -> str:
        """The last line that is not indented and was logged since this start."""
        try:
            with (self._log_folder / f"{name}.log").open("rb") as file:
                file.seek(max(self._log_sizes[name], file.seek(0, 2) - 20_000))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            lines = []
        last = next((line.strip() for line in reversed(lines) if line.strip() and not line.startswith(" ")), "")
        return f"«{_log_event(last)[:300]}»." if last else "it says nothing."


def _model_label(folder: ModelFolder) -> str:
    return folder.name if folder.stand_in_for is None else f"{folder.name} (stand-in for {folder.stand_in_for})"


def _log_event(line: str) -> str:
    """The event and error of a JSON log line, or the line itself."""
    try:
        record = json.loads(line)
        return " ".join(str(record[name]) for name in ("event", "error") if name in record)
    except (ValueError, TypeError):
        return line
