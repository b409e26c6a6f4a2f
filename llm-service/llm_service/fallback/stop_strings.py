"""Stop strings in a text that arrives in pieces. Pure."""

from collections.abc import Sequence


class StopScanner:
    """Lets text through until a stop string appears, and holds back an end that may be the start of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._withheld = ""
        self.stopped = False
        """A stop string was seen; nothing more comes out."""

    def feed(self, piece: str) -> str:
        """Take the next piece of text; return what is certain to be in front of any stop string."""
        if self.stopped:
            return ""
        text = self._withheld + piece
        starts = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if starts:
            self.stopped = True
            self._withheld = ""
            return text[: min(starts)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._withheld = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """The text that was held back, now that no more comes."""
        held, self._withheld = self._withheld, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
