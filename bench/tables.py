"""Renders reports in Markdown. Pure."""

from collections.abc import Iterable, Mapping, Sequence

from bench.measurements import Summary

Column = tuple[str, str, int]
"""Head of a column, name of its figure, and digits after the point."""


def page(*parts: str) -> str:
    """Join the parts of a report; empty ones are left out."""
    return "\n\n".join(part for part in parts if part) + "\n"


def bullets(lines: Mapping[str, str]) -> str:
    """Render a list of names and what they are."""
    return "\n".join(f"- **{name}**: {what}" for name, what in lines.items())


def verdict(broken: Sequence[str]) -> str:
    """Say whether every promise held, and which ones did not."""
    return "Not held:\n\n" + "\n".join(f"- {one}" for one in broken) if broken else "Every promise held."


def table(rows: Sequence[Sequence[str]], *, rule: str = "--:") -> str:
    """Render a Markdown table. The first row is the head, the first column is text, the others follow the `rule`."""
    head, *body = rows
    rules = ["---", *(rule for _ in head[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rules, *body))


def number(value: float | None, digits: int = 1, unit: str = "") -> str:
    """Format a number for a table; – for None."""
    return "–" if value is None else f"{value:,.{digits}f}{unit}"


def percent(share: float | None, digits: int = 0) -> str:
    """Format a share from 0 to 1 as a percentage; – for None."""
    return number(None if share is None else 100 * share, digits, " %")


def cells_of(lines: Mapping[str, Mapping[str, object]]) -> list[str]:
    """List the cells that occur, in their order."""
    return list(dict.fromkeys(key for cells in lines.values() for key in cells))


def clients(keys: Iterable[str]) -> list[str]:
    """Name the columns of numbers of clients."""
    return [f"{key} client{'' if key == '1' else 's'}" for key in keys]


def figure_table(
    first: str,
    lines: Mapping[str, Mapping[str, float | None]],
    digits: int = 1,
    heads: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
) -> str:
    """Render a row for each contender and a column for each cell, or each of `keys`; `heads` replace their names."""
    keys = cells_of(lines) if keys is None else keys
    rows = [[name, *(number(cells.get(key), digits) for key in keys)] for name, cells in lines.items()]
    return table([[first, *(heads or keys)], *rows])


def cell_table(first: str, summary: Summary, columns: Sequence[Column]) -> str:
    """Render a row for each cell of each contender, with a figure in each column."""
    rows = [
        [f"{name}, {key}", *(number(cell.get(figure), digits) for _, figure, digits in columns)]
        for name, cells in summary.items()
        for key, cell in cells.items()
    ]
    return table([[first, *(head for head, _, _ in columns)], *rows])
