"""Finds stop strings in text that arrives in pieces. Pure."""

from collections.abc import Sequence


class StopScanner:
    """Passes text on until a stop string appears, and holds back an end that may be the prefix of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._withheld = ""
        self.stopped = False
        """Whether a stop string was found; `feed` then returns only empty strings."""

    def feed(self, piece: str) -> str:
        """Add the next piece of text.

        Args:
            piece: Text as it was decoded; may be empty.

        Returns:
            The text that can be sent now: everything before the first stop string, less an end that may turn out to
            be the prefix of one.
        """
        if self.stopped:
            return ""
        text = self._withheld + piece
        starts = [start for stop in self._stops if (start := text.find(stop)) >= 0]
        if starts:
            self.stopped = True
            self._withheld = ""
            return text[: min(starts)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._withheld = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """End the text.

        Returns:
            The text that `feed` held back; empty if there is none.
        """
        held, self._withheld = self._withheld, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of `text` that is a proper prefix of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
