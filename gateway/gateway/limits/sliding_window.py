"""A sliding minute. Pure; the script in `redis_counters.py` does the same in Redis.

What is used counts for the following 60 s. To store that in a few numbers, all use within one cell of `CELL_MS` counts
as used at the last moment of use in the cell: for at least 60 s, and for at most 62. So no 60 s contain more than the
limit, and a client that always uses what is free gets at least 60/62 of it; with the whole seconds of `Retry-After`,
which may be one too long, 60/63.

Alternatives are worse. Two counters, of the running minute and of the one before, would be smaller, but spread a burst
over the minute: a client that waited for `Retry-After` found space for one request only, and half of a small limit was
never used. A token bucket admits twice its limit within the minute after a pause.
"""

from typing import NamedTuple

MINUTE_MS = 60_000
CELL_MS = 2_000


class Cell(NamedTuple):
    """What was used within one cell."""

    last_ms: int
    """The last moment of use."""
    amount: int


class Window(NamedTuple):
    """The use that counts, the oldest cell first: at most `MINUTE_MS / CELL_MS + 1` cells."""

    cells: tuple[Cell, ...] = ()

    def at(self, now_ms: int) -> "Window":
        """The window at another moment. If the clock was set back, use in the future counts as used now.

        Args:
            now_ms: the moment.

        Returns:
            The cells that still count then.
        """
        cells = (Cell(min(cell.last_ms, now_ms), cell.amount) for cell in self.cells)
        return Window(tuple(cell for cell in cells if cell.last_ms > now_ms - MINUTE_MS))

    @property
    def used(self) -> int:
        """The sum of all cells."""
        return sum(cell.amount for cell in self.cells)

    def plus(self, now_ms: int, amount: int) -> "Window":
        """Add use.

        Args:
            now_ms: when.
            amount: how much.

        Returns:
            The new window.
        """
        if self.cells and self.cells[-1].last_ms // CELL_MS == now_ms // CELL_MS:
            return Window((*self.cells[:-1], Cell(now_ms, self.cells[-1].amount + amount)))
        return Window((*self.cells, Cell(now_ms, amount)))

    def less(self, at_ms: int, amount: int) -> "Window":
        """Remove use, as far as it still counts.

        Args:
            at_ms: when it was used.
            amount: how much.

        Returns:
            The new window.
        """
        return Window(
            tuple(
                Cell(last, max(0, used - amount) if last // CELL_MS == at_ms // CELL_MS else used)
                for last, used in self.cells
            )
        )

    def wait_ms(self, now_ms: int, maximum: int) -> int:
        """The time until little enough counts, if nothing more is used.

        Args:
            now_ms: current time.
            maximum: what may count then.

        Returns:
            Milliseconds; 0 if that is so now.
        """
        excess, wait = self.used - maximum, 0
        for cell in self.cells:
            if excess <= 0:
                break
            excess, wait = excess - cell.amount, cell.last_ms + MINUTE_MS - now_ms
        return wait
