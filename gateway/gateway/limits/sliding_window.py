"""A sliding minute. Pure; the script in `redis.py` does the same sums where several gateways share them.

What is used counts for the 60 s that follow it. To keep that in a few numbers, what is used within one cell of
`CELL_MS` counts as used at the cell's last moment of use: for 60 s at least, and for 62 at most. So no 60 s anywhere
hold more than the limit, and who always takes what is free has 60/62 of the limit at least; with the whole seconds of
`Retry-After`, which may be one too long, 60/63. (Two counters, of the running minute and of the one before, would
be less to keep. But what was used at once counts as spread there, so that who waited as told found room for one, and
half of a small limit was never used; and a token bucket lets twice its limit in within the minute after a rest.)
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
    """The use that counts, the oldest first: at most `MINUTE_MS / CELL_MS + 1` cells."""

    cells: tuple[Cell, ...] = ()

    def at(self, now_ms: int) -> "Window":
        """What of it counts at that moment. What a clock that was put back shows as used later counts as used now."""
        cells = (Cell(min(cell.last_ms, now_ms), cell.amount) for cell in self.cells)
        return Window(tuple(cell for cell in cells if cell.last_ms > now_ms - MINUTE_MS))

    @property
    def used(self) -> int:
        """How much."""
        return sum(cell.amount for cell in self.cells)

    def plus(self, now_ms: int, amount: int) -> "Window":
        """With so much more used now."""
        if self.cells and self.cells[-1].last_ms // CELL_MS == now_ms // CELL_MS:
            return Window((*self.cells[:-1], Cell(now_ms, self.cells[-1].amount + amount)))
        return Window((*self.cells, Cell(now_ms, amount)))

    def less(self, at_ms: int, amount: int) -> "Window":
        """With so much less of what was used at that moment, if that still counts."""
        return Window(
            tuple(
                Cell(last, max(0, used - amount) if last // CELL_MS == at_ms // CELL_MS else used)
                for last, used in self.cells
            )
        )

    def wait_ms(self, now_ms: int, most: int) -> int:
        """How long until `most` or less counts, if nothing more is used."""
        over, wait = self.used - most, 0
        for cell in self.cells:
            if over <= 0:
                break
            over, wait = over - cell.amount, cell.last_ms + MINUTE_MS - now_ms
        return wait
