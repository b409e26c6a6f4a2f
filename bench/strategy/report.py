"""Makes `strategy.json` and `strategy.md` from measurements. Pure except `write`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import files, machine
from bench.measurements import Measurement, medians
from bench.strategy.phases import PHASES
from bench.strategy.promises import DAYS, PROMISES
from bench.strategy.traffic import CELLS, MIX, TEXTS
from bench.tables import number, table


@dataclass
class StrategyResults:
    """All measurements so far."""

    price: float
    """Of the machine, in dollars an hour."""
    visits: list[Measurement] = field(default_factory=list)
    """Contenders are phases."""
    engines: dict[str, list[str]] = field(default_factory=dict)
    """What ran the encoders, by phase."""
    preparation_seconds: dict[str, float] = field(default_factory=dict)
    """How long storing reviews and precomputing took, by phase."""


def cost(per_second: float | None, price: float) -> float | None:
    """Compute what a million requests cost on a machine that is always busy, in dollars, at a price an hour."""
    return price * 1e6 / (per_second * 3600) if per_second else None


def as_json(head: Mapping[str, Any], results: StrategyResults) -> dict[str, Any]:
    """Collect all results, including the single measurements."""
    summary = medians(results.visits, largest=["errors"])
    return {
        "machine": dict(head),
        "price_an_hour": results.price,
        "engines": results.engines,
        "preparation_seconds": results.preparation_seconds,
        "promises": [
            {"what": one.what, "promised": one.promised, "measured": one.measured(summary), "why": one.why}
            for one in PROMISES
        ],
        "figures": summary,
        "visits": [asdict(visit) for visit in results.visits],
    }


def as_markdown(document: Mapping[str, Any]) -> str:
    """Render the report."""
    summary, promises = document["figures"], document["promises"]
    mix = ", ".join(f"{kind} {share} % of {TEXTS[kind]}" for kind, share in MIX.items())
    parts = [
        "# What the strategy promises, and what was measured",
        machine.line(document["machine"]),
        "Encoders of BERT-base's shape with random weights and a stand-in for the LLM, on a CPU: nothing here is about "
        "a card, where every ratio differs. [What is measured, and what this does not "
        "say](../README.md#the-strategy).",
        f"The day's requests, and texts in each: {mix}. A million requests at ${document['price_an_hour']} an hour.",
        "\n".join(f"- **{phase.name}**: {_what(phase.name, phase.what, document)}" for phase in PHASES),
        *(part for day in DAYS for part in (f"## The day, {day}", table(_day_rows(summary, day, document)))),
        "## Promised and measured",
        "Where there are two figures, the first is without repeats and the second with Zipf's.",
        table([["what", "promised", "measured", "why"], *(list(one.values()) for one in promises)], rule="---"),
        "## All parts",
        table(_cell_rows(summary)),
    ]
    return "\n\n".join(parts) + "\n"


def _what(name: str, what: str, document: Mapping[str, Any]) -> str:
    engines, seconds = document["engines"].get(name), document["preparation_seconds"].get(name)
    more = f"; encoders on {' and '.join(dict.fromkeys(engines))}" if engines else ""
    return f"{what}{more}; {number(seconds, 0, ' s')} to prepare"


def _day_rows(summary: Mapping[str, Any], day: str, document: Mapping[str, Any]) -> list[list[str]]:
    rows = [
        ["", "requests/s", "p50 ms", "p99 ms", "resident MB", "$ for a million", "not computed", "refused", "errors"]
    ]
    for name, cells in summary.items():
        if cell := cells.get(day):
            saved = None if cell["saved_share"] is None else 100 * cell["saved_share"]
            price = cost(cell["per_second"], document["price_an_hour"])
            figures = [number(cell[key]) for key in ("per_second", "p50_ms", "p99_ms")]
            more = [number(cell["resident_mb"], 0), number(price, 2), number(saved, 0, " %")]
            rows.append([name, *figures, *more, *(number(cell[key], 0) for key in ("refused", "errors"))])
    return rows


def _cell_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    rows = [["phase, part", "requests", "requests/s", "p50 ms", "p99 ms", "cached p50 ms", "texts computed", "errors"]]
    for name, cells in summary.items():
        for each in CELLS:
            if cell := cells.get(each.name):
                keys = ("per_second", "p50_ms", "p99_ms", "hit_p50_ms", "texts_per_request")
                figures = [number(cell[key], 2) for key in keys]
                rows.append([f"{name}, {each.name}", number(cell["requests"], 0), *figures, number(cell["errors"], 0)])
    return rows


def write(folder: Path, head: Mapping[str, Any], results: StrategyResults) -> None:
    """Write both files."""
    document = as_json(head, results)
    files.write(folder, "strategy", document, as_markdown(document))
