"""Tables and numbers in Markdown. Pure."""

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is its head, the first column is text, the rest are numbers."""
    head, *body = rows
    rule = ["---", *("--:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *body))


def number(value: float | None, digits: int = 1, unit: str = "") -> str:
    """A number for a table; – where there is none."""
    return "–" if value is None else f"{value:,.{digits}f}{unit}"
