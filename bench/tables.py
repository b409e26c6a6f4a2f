"""Renders tables and numbers in Markdown. Pure."""

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]], *, rule: str = "--:") -> str:
    """Render a Markdown table. The first row is the head, the first column is text, the others follow the `rule`."""
    head, *body = rows
    rules = ["---", *(rule for _ in head[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rules, *body))


def number(value: float | None, digits: int = 1, unit: str = "") -> str:
    """Format a number for a table; – for None."""
    return "–" if value is None else f"{value:,.{digits}f}{unit}"
