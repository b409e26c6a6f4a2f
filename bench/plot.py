"""Throughput by clients as an SVG, one panel for each number of texts in a request. Pure."""

from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[int, float]]
"""(clients, texts a second), by clients."""

WIDTH, HEIGHT = 440, 320
"""One panel, in pixels."""
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 64, 48
"""Its margins."""
COLOURS = ("#0b6e4f", "#c8553d", "#4a6fa5", "#8f6ba8", "#7a7a7a")


def throughput(panels: Mapping[int, Mapping[str, Points]], ceiling: float | None) -> str:
    """The picture.

    Args:
        panels: texts in a request → contender → its points.
        ceiling: texts a second of the bare model offline, drawn as a dashed line.
    """
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    width = WIDTH * max(1, len(panels))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{HEIGHT}" viewBox="0 0 {width} {HEIGHT}"'
        ' font-family="sans-serif" font-size="12" fill="#222">',
        f'<rect width="{width}" height="{HEIGHT}" fill="#fff"/>',
    ]
    for index, (texts, lines) in enumerate(sorted(panels.items())):
        parts.append(f'<g transform="translate({index * WIDTH} 0)">')
        parts += _panel(f"{texts} text{'s' if texts > 1 else ''} a request", lines, ceiling, names)
        parts.append("</g>")
    return "\n".join([*parts, *_legend(names, ceiling), "</svg>"]) + "\n"


def _panel(title: str, lines: Mapping[str, Points], ceiling: float | None, names: Sequence[str]) -> list[str]:
    clients = sorted({count for points in lines.values() for count, _ in points})
    top = step_above(max([rate for points in lines.values() for _, rate in points] + [ceiling or 0, 1]))

    def across(count: int) -> float:
        """Clients are evenly spaced, as steps."""
        gaps = max(1, len(clients) - 1)
        return LEFT + 12 + (WIDTH - LEFT - RIGHT - 24) * clients.index(count) / gaps

    def down(rate: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * rate / top

    parts = [f'<text x="{LEFT}" y="{TOP - 14}" font-weight="bold">{escape(title)}: texts a second by clients</text>']
    for tick in range(5):
        y = down(top * tick / 4)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{top * tick / 4:g}</text>')
    parts += [
        f'<text x="{across(count):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{count}</text>'
        for count in clients
    ]
    if ceiling:
        parts.append(
            f'<path d="M{LEFT} {down(ceiling):.1f}H{WIDTH - RIGHT}" stroke="#222" stroke-dasharray="5 4" fill="none"/>'
        )
    for name, points in lines.items():
        colour = COLOURS[names.index(name) % len(COLOURS)]
        where = [(across(count), down(rate)) for count, rate in sorted(points)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in where)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in where]
    return parts


def _legend(names: Sequence[str], ceiling: float | None) -> list[str]:
    parts = []
    for index, name in enumerate(names):
        x = LEFT + index * 110
        colour = COLOURS[index % len(COLOURS)]
        parts.append(f'<rect x="{x}" y="14" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{x + 18}" y="24">{escape(name)}</text>')
    if ceiling:
        x = LEFT + len(names) * 110
        parts.append(f'<path d="M{x} 20h22" stroke="#222" stroke-dasharray="5 4"/>')
        parts.append(f'<text x="{x + 28}" y="24">bare model offline</text>')
    return parts


def step_above(value: float) -> float:
    """The end of an axis: the next of 1, 2, 4 or 8 times a power of ten."""
    power = 1.0
    while power * 10 <= value:
        power *= 10
    return next(factor * power for factor in (1, 2, 4, 8, 10) if factor * power >= value)
