"""Shows the progress of a start: a live table on a terminal, elsewhere one line per change."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

_COLOURS = {"ready": "green", "restarting": "red", "stopped": "red", "waiting": "dim"}


@dataclass(frozen=True)
class ProcessRow:
    """The present state of one process."""

    name: str
    state: str
    model: str
    port: int


class StartupProgress:
    """Context manager that displays rows while the stack starts."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=False) if console.is_terminal else None
        self._started = time.monotonic()
        self._printed: dict[str, str] = {}
        self._finished: dict[str, float] = {}

    def __enter__(self) -> "StartupProgress":
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, rows: Mapping[str, ProcessRow]) -> None:
        """Show the present state of all processes.

        Args:
            rows: one row per process, by name, in the order of the table.
        """
        now = time.monotonic() - self._started
        for row in rows.values():
            if row.state == "ready":
                self._finished.setdefault(row.name, now)
            else:
                self._finished.pop(row.name, None)
        if self._live:
            self._live.update(self._table(rows, now))
            return
        for row in rows.values():
            if self._printed.get(row.name) != row.state:
                self._printed[row.name] = row.state
                self._console.print(
                    f"{now:5.0f} s  {row.name:<10} {row.state:<11} {row.model}".rstrip(), highlight=False
                )

    def _table(self, rows: Mapping[str, ProcessRow], now: float) -> Table:
        table = Table(box=None, pad_edge=False)
        for heading in ("part", "state", "seconds", "port", "model"):
            table.add_column(heading, justify="right" if heading in ("seconds", "port") else "left")
        for row in rows.values():
            state = f"[{_COLOURS.get(row.state, 'yellow')}]{row.state}[/]"
            table.add_row(row.name, state, f"{self._finished.get(row.name, now):.0f}", str(row.port or ""), row.model)
        return table
