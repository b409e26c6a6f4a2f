"""What the parts' states mean while the stack starts. Pure, but for reading a log when a part has failed."""

import json
from collections.abc import Mapping
from pathlib import Path

from onecard.models.folders import ModelFolder, ModelKind
from onecard_stack.errors import StackError
from onecard_stack.processes.process_table import Process
from onecard_stack.supervision.progress import ProcessRow
from onecard_stack.supervision.supervisor import ProcessState

MAX_STARTS = 3
"""A part that had to be started this often and is still not ready keeps crashing."""


class StartupMonitor:
    """Follows the parts from look to look."""

    def __init__(self, parts: list[Process], log_folder: Path, folders: Mapping[ModelKind, ModelFolder]) -> None:
        self._processes = parts
        self._log_folder = log_folder
        self._models = {kind: _model_label(folder) for kind, folder in folders.items()}
        self._start_times: dict[str, set[float]] = {part.name: set() for part in parts}
        self._states: Mapping[str, ProcessState] = {}
        self._ready: Mapping[str, bool] = {}
        self._log_sizes = {part.name: self._log_size(part.name) for part in parts}

    def update(self, states: Mapping[str, ProcessState], ready: Mapping[str, bool]) -> dict[str, ProcessRow]:
        """Take in a look at all parts, and describe it."""
        self._states, self._ready = states, ready
        for state in states.values():
            if state.pid and state.name in self._start_times:
                self._start_times[state.name].add(state.started)
        return {
            part.name: ProcessRow(part.name, self._state_word(part), self._models.get(part.name, ""), part.port)  # type: ignore[call-overload]
            for part in self._processes
        }

    def _state_word(self, part: Process) -> str:
        state = self._states.get(part.name)
        if self._ready.get(part.name):
            return "ready"
        if state is None or state.state in ("STOPPED", "STOPPING", "FATAL"):
            return "stopped"
        if state.state in ("BACKOFF", "EXITED") or len(self._start_times[part.name]) > 1:
            return "restarting"
        if not all(self._ready.get(name) for name in part.waits_for):
            return "waiting"
        return "loading" if part.model else "starting"

    def raise_for_failure(self) -> None:
        """Give up where waiting longer is of no use.

        Raises:
            StackError: a part cannot be started or keeps crashing, or somebody has stopped the stack.
        """
        if not self._states:
            raise StackError("The stack was stopped while it started.")
        for part in self._processes:
            state = self._states.get(part.name)
            if state is not None and state.spawn_error and not state.pid:
                raise StackError(f"{part.name} cannot be started: {state.spawn_error}.")
            if not self._ready.get(part.name) and len(self._start_times[part.name]) >= MAX_STARTS:
                raise StackError(
                    f"{part.name} keeps crashing: {self._last_log_line(part.name)} Its log: {self._log_path(part.name)}"
                )

    def timeout_error(self, seconds: float) -> StackError:
        """The error for parts that are not ready in time."""
        names = [part.name for part in self._processes if not self._ready.get(part.name)]
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
        """The last thing it said since this start."""
        try:
            with (self._log_folder / f"{name}.log").open("rb") as file:
                file.seek(max(self._log_sizes[name], file.seek(0, 2) - 20_000))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            lines = []
        said = next((line.strip() for line in reversed(lines) if line.strip() and not line.startswith(" ")), "")
        return f"«{_log_event(said)[:300]}»." if said else "it says nothing."


def _model_label(folder: ModelFolder) -> str:
    return folder.name if folder.stand_in_for is None else f"{folder.name} (stand-in for {folder.stand_in_for})"


def _log_event(line: str) -> str:
    """A JSON log line's event, or the line itself."""
    try:
        record = json.loads(line)
        return " ".join(str(record[name]) for name in ("event", "error") if name in record)
    except (ValueError, TypeError):
        return line
