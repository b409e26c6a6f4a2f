"""Makes a `.json` and a `.md` file from measurements. Pure except `write`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import files, machine
from bench.measurements import Measurement, medians
from bench.search.vectors import DIMENSIONS, NEAREST
from bench.tables import number, table

MAX_P99_MS = {200_000: 20.0, 1_000_000: 50.0}
"""Targets by number of rows, for the review service's index on two cores."""
MIN_RECALL = 0.95
MAX_MEMORY_MB = 2_000.0
OURS = "lancedb"


@dataclass
class VectorSearchResults:
    """All measurements so far."""

    builds: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """Figures of building: contender → rows → figures."""
    visits: list[Measurement] = field(default_factory=list)
    """Cells are numbers of rows."""


def as_json(head: Mapping[str, Any], results: VectorSearchResults) -> dict[str, Any]:
    """Collect all results, including the single measurements."""
    summary = medians(results.visits, largest=["search_peak_mb"])
    together = {
        name: {rows: {**results.builds[name][rows], **figures} for rows, figures in cells.items()}
        for name, cells in summary.items()
    }
    return {
        "machine": dict(head),
        "medians": together,
        "promises": targets_met(together),
        "visits": [asdict(visit) for visit in results.visits],
    }


def targets_met(summary: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, bool]:
    """Check by number of rows whether the review service's index meets its targets of latency, recall and memory."""
    ours = summary.get(OURS, {})
    return {
        rows: figures["p99_ms"] < MAX_P99_MS[int(rows)]
        and figures["recall"] >= MIN_RECALL
        and figures["search_peak_mb"] < MAX_MEMORY_MB
        for rows, figures in ours.items()
        if int(rows) in MAX_P99_MS
    }


def as_markdown(document: Mapping[str, Any]) -> str:
    """Render the report."""
    summary = document["medians"]
    sizes = sorted({int(rows) for cells in summary.values() for rows in cells})
    parts = [
        "# Vector search",
        machine.line(document["machine"]),
        f"Vectors of {DIMENSIONS} dimensions in clusters; one query at a time. "
        "[What is measured, and what this does not say](../README.md#vector-search).",
    ]
    for rows in sizes:
        cells = {name: cells[str(rows)] for name, cells in summary.items() if str(rows) in cells}
        parts += [f"## {rows:,} vectors", table(_rows(rows, cells))]
        if str(rows) in document["promises"]:
            kept = "kept" if document["promises"][str(rows)] else "**not kept**"
            parts.append(
                f"Promised for the review service: p99 below {MAX_P99_MS[rows]:g} ms, recall of at least "
                f"{MIN_RECALL:g}, less than {MAX_MEMORY_MB / 1000:g} GB of memory: {kept}."
            )
    return "\n\n".join(parts) + "\n"


def _rows(rows: int, cells: Mapping[str, Mapping[str, Any]]) -> Sequence[Sequence[str]]:
    head = ["", "import rows/s", "index s", "p50 ms", "p99 ms", f"recall@{NEAREST}", "resident MB", "building MB"]
    made = [[*head, "disk MB"]]
    for name, cell in cells.items():
        seconds = cell["import_seconds"]
        figures = [
            number(rows / seconds if seconds else None, 0),
            number(cell["index_seconds"] or None, 1),
            number(cell["p50_ms"], 2),
            number(cell["p99_ms"], 2),
            number(cell["recall"], 3),
            number(cell["search_peak_mb"], 0),
            number(cell["build_peak_mb"], 0),
            number(cell["disk_mb"], 0),
        ]
        made.append([name, *figures])
    return made


def write(folder: Path, name: str, head: Mapping[str, Any], results: VectorSearchResults) -> None:
    """Write both files."""
    document = as_json(head, results)
    files.write(folder, name, document, as_markdown(document))
