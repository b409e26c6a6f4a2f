"""Makes `gateway.json`, `gateway.md` and `gateway.svg` from measurements. Pure except `write`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import files, machine, plot
from bench.gateway.contenders import GATEWAY, UNLIMITED
from bench.gateway.load import RelayOutcome
from bench.measurements import Measurement, medians, ratios, rounded
from bench.tables import number, table


@dataclass
class GatewayResults:
    """All measurements so far."""

    visits: list[Measurement] = field(default_factory=list)
    """Cells are numbers of clients."""
    streams: dict[str, Any] = field(default_factory=dict)


def visit(contender: str, number: int, clients: int, outcome: RelayOutcome, peak_rss_mb: float) -> Measurement:
    """Make a measurement. `peak_rss_mb` is the peak memory of the contender's processes, in MB (10^6 bytes)."""
    figures = {
        "per_second": outcome.per_second,
        "p50_ms": outcome.p50_ms,
        "p99_ms": outcome.p99_ms,
        "errors": sum(outcome.errors.values()),
        "peak_rss_mb": peak_rss_mb,
    }
    return Measurement(contender, str(clients), number, figures)


def added_ms(summary: Mapping[str, Any]) -> dict[str, float | None]:
    """Compute the median latency that each relay adds to a direct call by one client, in ms."""
    direct = summary.get("direct", {}).get("1", {}).get("p50_ms")
    found = {name: cells.get("1", {}).get("p50_ms") for name, cells in summary.items() if name != "direct"}
    return {name: None if direct is None or p50 is None else rounded(p50 - direct) for name, p50 in found.items()}


def as_json(head: Mapping[str, Any], contenders: Mapping[str, str], results: GatewayResults) -> dict[str, Any]:
    """Collect all results, including the single measurements."""
    summary = medians(results.visits, largest=("errors", "peak_rss_mb"))
    others = {name: cells for name, cells in summary.items() if name != GATEWAY}
    return {
        "machine": dict(head),
        "contenders": dict(contenders),
        "medians": summary,
        "ratios": {**ratios(summary, GATEWAY, "per_second"), **ratios(others, UNLIMITED, "per_second")},
        "added_p50_ms": added_ms(summary),
        "streams": results.streams,
        "visits": [asdict(visit) for visit in results.visits],
    }


def as_markdown(document: Mapping[str, Any]) -> str:
    """Render the report."""
    summary, head = document["medians"], document["machine"]
    keys = list(dict.fromkeys(key for cells in summary.values() for key in cells))
    clients = [f"{key} client{'s' if key != '1' else ''}" for key in keys]
    parts = [
        "# The gateway beside other relays: one machine, one run, the same upstream",
        f"{machine.line(head)} · load: {head['load_generator']}",
        "Medians over rounds. [What is measured, and what this does not say](../README.md#the-gateway).",
        "\n".join(f"- **{name}**: {what}" for name, what in document["contenders"].items()),
        "## Throughput, requests a second",
        table([["", *clients], *([name, *_column(cells, keys, "per_second", 0)] for name, cells in summary.items())]),
        *_ratio_part(document["ratios"], keys, clients),
        "![throughput by clients](gateway.svg)",
        "## Added to the median of one client",
        table([["", "ms"], *([name, number(value, 2)] for name, value in document["added_p50_ms"].items())]),
        "## All cells",
        table(_detail_rows(summary)),
        *_stream_part(document["streams"]),
    ]
    return "\n\n".join(parts) + "\n"


def _ratio_part(found: Mapping[str, Any], keys: Sequence[str], clients: Sequence[str]) -> list[str]:
    rows = [[name, *(number(cells.get(key), 2) for key in keys)] for name, cells in found.items()]
    return ["## Ratios of throughput", table([["", *clients], *rows])] if rows else []


def _column(cells: Mapping[str, Any], keys: Sequence[str], figure: str, digits: int) -> list[str]:
    return [number(cells.get(key, {}).get(figure), digits) for key in keys]


def _detail_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    rows = [["contender, clients", "requests/s", "p50 ms", "p99 ms", "errors in a round", "peak RSS MB", "rounds"]]
    for name, cells in summary.items():
        for key, cell in cells.items():
            figures = [number(cell["per_second"], 0), number(cell["p50_ms"], 2), number(cell["p99_ms"], 2)]
            counts = [number(cell["errors"], 0), number(cell["peak_rss_mb"], 0), str(cell["rounds"])]
            rows.append([f"{name}, {key}", *figures, *counts])
    return rows


def _stream_part(streams: Mapping[str, Any]) -> list[str]:
    if not streams:
        return []
    rows = [["streams at a time", number(streams["streams"], 0)]]
    rows.append(["whole and in order", number(streams["whole"], 0)])
    rows.append(["chunks each, ms apart", f"{streams['chunks']}, {streams['chunk_ms']:g}"])
    rows.append(["seconds; paced alone it is", f"{streams['seconds']:.1f}; {streams['paced_seconds']:.1f}"])
    rows.append(["first chunk, p50 and p99, ms", f"{streams['first_p50_ms']:.0f}; {streams['first_p99_ms']:.0f}"])
    memory = " → ".join(number(streams[f"rss_mb_{when}"], 0) for when in ("before", "peak", "after"))
    rows.append(["gateway's resident memory before → peak → after, MB", memory])
    lost = [f"Lost: {streams['errors']}"] if streams["errors"] else []
    return ["## Streams through this gateway", table([["", ""], *rows]), *lost]


def write(folder: Path, head: Mapping[str, Any], contenders: Mapping[str, str], results: GatewayResults) -> None:
    """Write all three files."""
    document = as_json(head, contenders, results)
    title = "requests a second by clients"
    lines = {
        name: [(int(key), cell["per_second"]) for key, cell in cells.items()]
        for name, cells in document["medians"].items()
    }
    files.write(folder, "gateway", document, as_markdown(document), plot.by_clients({title: lines}, powers=True))
