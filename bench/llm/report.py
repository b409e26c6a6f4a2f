"""Makes `llm.json`, `llm.md` and `llm.svg` from measurements. Pure except `write`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench import files, machine, plot
from bench.llm.contenders import BASELINE, DIRECT, GATEWAY
from bench.measurements import Measurement, medians, paired, rounded
from bench.stats import percentile
from bench.tables import number, table

RATE = "tokens_per_second"


@dataclass
class LlmResults:
    """All measurements so far."""

    visits: list[Measurement] = field(default_factory=list)
    """Cells are numbers of clients."""
    first_tokens: list[dict[str, list[float]]] = field(default_factory=list)
    """Times to the first token in ms by contender, for each round."""


def first_token_figures(rounds: list[dict[str, list[float]]]) -> dict[str, Any]:
    """Summarise times to the first token in ms: p50 and p99 by contender, and what the gateway adds to the median."""
    samples: dict[str, list[float]] = {}
    for one in rounds:
        for name, values in one.items():
            samples.setdefault(name, []).extend(values)
    found: dict[str, Any] = {
        name: {"p50_ms": rounded(percentile(values, 0.5)), "p99_ms": rounded(percentile(values, 0.99))}
        for name, values in samples.items()
    }
    added = [median(one[GATEWAY]) - median(one[DIRECT]) for one in rounds if one.get(GATEWAY) and one.get(DIRECT)]
    return {**found, "added_p50_ms": rounded(median(added)) if added else None}


def as_json(head: Mapping[str, Any], contenders: Mapping[str, str], results: LlmResults) -> dict[str, Any]:
    """Collect all results, including the single measurements."""
    summary = medians(results.visits, largest=["errors"])
    return {
        "machine": dict(head),
        "contenders": dict(contenders),
        "medians": summary,
        "ratios": {f"{GATEWAY}/{DIRECT}": paired(results.visits, GATEWAY, DIRECT, RATE)},
        "over_before": over_baseline(summary),
        "first_token": first_token_figures(results.first_tokens),
        "visits": [asdict(visit) for visit in results.visits],
        "first_tokens": results.first_tokens,
    }


def over_baseline(summary: Mapping[str, Any]) -> dict[str, float | None]:
    """Divide throughput through the gateway by that of one request at a time on Transformers, by clients."""
    once = summary.get(BASELINE, {}).get("1", {}).get(RATE)
    return {cell: rounded(figures[RATE] / once) if once else None for cell, figures in summary.get(GATEWAY, {}).items()}


def as_markdown(document: Mapping[str, Any]) -> str:
    """Render the report."""
    summary, first = document["medians"], document["first_token"]
    keys = list(dict.fromkeys(key for cells in summary.values() for key in cells))
    rows = [["contender, clients", "tokens/s", "requests/s", "p50 ms", "p99 ms", "errors in a round", "rounds"]]
    for name, cells in summary.items():
        for key, cell in cells.items():
            figures = [number(cell[one]) for one in (RATE, "requests_per_second", "p50_ms", "p99_ms")]
            rows.append([f"{name}, {key}", *figures, number(cell["errors"], 0), str(cell["rounds"])])
    ratio_rows = [["tokens a second", *(f"{key} client{'s' if key != '1' else ''}" for key in keys)]]
    direct = document["ratios"].get(f"{GATEWAY}/{DIRECT}", {})
    ratio_rows.append([f"{GATEWAY}/{DIRECT}", *(number(direct.get(key), 3) for key in keys)])
    over = document["over_before"]
    ratio_rows.append([f"{GATEWAY}/{BASELINE} with one client", *(number(over.get(key), 2) for key in keys)])
    first_rows = [["one client, streamed", "p50 ms", "p99 ms"]]
    first_rows += [
        [name, number(first[name]["p50_ms"]), number(first[name]["p99_ms"])]
        for name in (DIRECT, GATEWAY)
        if name in first
    ]
    parts = [
        "# The LLM service, directly and through the gateway",
        machine.line(document["machine"]),
        "A stand-in model on a CPU: ratios say something, tokens a second do not. [What is measured, and what this "
        "does not say](../README.md#the-llm).",
        "\n".join(f"- **{name}**: {what}" for name, what in document["contenders"].items()),
        "## Ratios",
        table(ratio_rows),
        "## Time to the first token",
        table(first_rows),
        f"Added by the gateway, the median of the rounds' differences: **{number(first['added_p50_ms'], 2)} ms**.",
        "![tokens a second by clients](llm.svg)",
        "## All cells",
        table(rows),
    ]
    return "\n\n".join(parts) + "\n"


def write(folder: Path, head: Mapping[str, Any], contenders: Mapping[str, str], results: LlmResults) -> None:
    """Write all three files."""
    document = as_json(head, contenders, results)
    lines = {
        name: [(int(key), cell[RATE]) for key, cell in cells.items()] for name, cells in document["medians"].items()
    }
    files.write(folder, "llm", document, as_markdown(document), plot.by_clients({"tokens a second by clients": lines}))
