"""What a check has found. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "refusal"]


class Refused(Exception):
    """The stack cannot run like this. The message is one line that says what to change."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor."""

    check: str
    """What was looked at, in one word: `driver`, `ports`, …"""
    level: Level
    """`warning`: the stack starts, and something may not go well; `refusal`: it does not start."""
    message: str
    """What was found, as a sentence."""
    next_step: str = ""
    """What to do about it; empty if it is `ok`."""

    @property
    def line(self) -> str:
        """Message and next step."""
        return f"{self.message} {self.next_step}".rstrip()


def sentence(text: str) -> str:
    """Begin a text with a capital letter."""
    return text[:1].upper() + text[1:]


def ok(check: str, message: str) -> Finding:
    """Nothing is wrong."""
    return Finding(check, "ok", message)


def warning(check: str, message: str, next_step: str) -> Finding:
    """The stack starts all the same."""
    return Finding(check, "warning", message, next_step)


def refusal(check: str, message: str, next_step: str = "") -> Finding:
    """The stack does not start. `message` may contain the next step."""
    return Finding(check, "refusal", message, next_step)


def refusals(findings: Iterable[Finding]) -> list[Finding]:
    """Those that keep the stack from starting, in their order."""
    return [finding for finding in findings if finding.level == "refusal"]


def require(findings: Iterable[Finding]) -> None:
    """Go on only if nothing is refused.

    Args:
        findings: of some checks.

    Raises:
        Refused: there are refusals. The message is the first one, and how many others there are.
    """
    if found := refusals(findings):
        more = f" ({len(found) - 1} more: 'onecard doctor' lists them)" if len(found) > 1 else ""
        raise Refused(found[0].line + more)
