"""Draws figures by number of clients as SVG, in panels side by side. Pure."""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

Points = Sequence[tuple[int, float]]
"""Pairs (clients, figure), sorted by clients."""

WIDTH, HEIGHT = 440, 320
"""Size of one panel, in pixels."""
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 64, 48
"""Margins of a panel, in pixels."""
COLOURS = ("#0b6e4f", "#c8553d", "#4a6fa5", "#8f6ba8", "#7a7a7a", "#d4a017")


def by_clients(
    panels: Mapping[str, Mapping[str, Points]], *, ceiling: tuple[str, float] | None = None, powers: bool = False
) -> str:
    """Draw the picture.

    Args:
        panels: title → contender → its points.
        ceiling: label and figure of a dashed line; None: no line.
        powers: use a logarithmic axis, for figures that are far apart.

    Returns:
        The SVG document.
    """
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    width = WIDTH * max(1, len(panels), math.ceil((LEFT + 110 * (len(names) + bool(ceiling))) / WIDTH))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{HEIGHT}" viewBox="0 0 {width} {HEIGHT}"'
        ' font-family="sans-serif" font-size="12" fill="#222">',
        f'<rect width="{width}" height="{HEIGHT}" fill="#fff"/>',
    ]
    for index, (title, lines) in enumerate(panels.items()):
        parts.append(f'<g transform="translate({index * WIDTH} 0)">')
        parts += _panel(title, lines, ceiling, names, powers)
        parts.append("</g>")
    return "\n".join([*parts, *_legend(names, ceiling), "</svg>"]) + "\n"


def _axis(figures: Sequence[float], powers: bool) -> tuple[list[float], Callable[[float], float]]:
    """Compute the ticks, and a function from a figure to its position between 0 (bottom) and 1 (top)."""
    if not powers:
        top = step_above(max(figures))
        return [top * tick / 4 for tick in range(5)], lambda figure: figure / top
    low = math.floor(math.log10(min(figures)))
    high = max(low + 1, math.ceil(math.log10(max(figures))))
    return [10.0**power for power in range(low, high + 1)], lambda figure: (math.log10(figure) - low) / (high - low)


def _panel(
    title: str, lines: Mapping[str, Points], ceiling: tuple[str, float] | None, names: Sequence[str], powers: bool
) -> list[str]:
    clients = sorted({count for points in lines.values() for count, _ in points})
    figures = [figure for points in lines.values() for _, figure in points if figure > 0 or not powers]
    ticks, share = _axis([*figures, *([ceiling[1]] if ceiling else []), 1.0], powers)

    def across(count: int) -> float:
        """Numbers of clients are evenly spaced."""
        gaps = max(1, len(clients) - 1)
        return LEFT + 12 + (WIDTH - LEFT - RIGHT - 24) * clients.index(count) / gaps

    def down(figure: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share(figure)

    parts = [f'<text x="{LEFT}" y="{TOP - 14}" font-weight="bold">{escape(title)}</text>']
    for tick in ticks:
        parts.append(f'<path d="M{LEFT} {down(tick):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{down(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    parts += [
        f'<text x="{across(count):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{count}</text>'
        for count in clients
    ]
    if ceiling:
        y = down(ceiling[1])
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#222" stroke-dasharray="5 4" fill="none"/>')
    for name, points in lines.items():
        colour = COLOURS[names.index(name) % len(COLOURS)]
        where = [(across(count), down(figure)) for count, figure in sorted(points) if figure > 0 or not powers]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in where)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in where]
    return parts


def _legend(names: Sequence[str], ceiling: tuple[str, float] | None) -> list[str]:
    parts = []
    for index, name in enumerate(names):
        x = LEFT + index * 110
        colour = COLOURS[index % len(COLOURS)]
        parts.append(f'<rect x="{x}" y="14" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{x + 18}" y="24">{escape(name)}</text>')
    if ceiling:
        x = LEFT + len(names) * 110
        parts.append(f'<path d="M{x} 20h22" stroke="#222" stroke-dasharray="5 4"/>')
        parts.append(f'<text x="{x + 28}" y="24">{escape(ceiling[0])}</text>')
    return parts


def step_above(value: float) -> float:
    """Round up to the end of an axis: 1, 2, 4 or 8 times a power of ten."""
    power = 1.0
    while power * 10 <= value:
        power *= 10
    return next(factor * power for factor in (1, 2, 4, 8, 10) if factor * power >= value)
