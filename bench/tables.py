"""Renders tables and numbers in Markdown. Pure."""

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]]) -> str:
    """Render a Markdown table. The first row is the head, the first column is text, the others are numbers."""
    head, *body = rows
    rule = ["---", *("--:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *body))


def number(value: float | None, digits: int = 1, unit: str = "") -> str:
    """Format a number for a table; – for None."""
    return "–" if value is None else f"{value:,.{digits}f}{unit}"
