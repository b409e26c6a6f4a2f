"""Makes a `.json`, a `.md` and a `.svg` file from measurements. Pure except `write`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import files, machine, plot
from bench.cells import SINGLE, CellMeasurement
from bench.rounds import EncoderResults, EncoderSchedule
from bench.stats import median_of_present, ratio
from bench.tables import number, table

OURS = "onecard"
FIGURES = ("texts_per_second", "p50_ms", "p95_ms", "p99_ms")


def medians(cells: Sequence[CellMeasurement]) -> dict[str, dict[str, dict[str, Any]]]:
    """Summarise rounds: contender → cell → medians, peak memory, and the number of errors."""
    found: dict[str, dict[str, list[CellMeasurement]]] = {}
    for made in sorted(cells, key=lambda each: each.cell):
        found.setdefault(made.contender, {}).setdefault(made.cell.key, []).append(made)
    return {name: {key: _median(each) for key, each in by_cell.items()} for name, by_cell in found.items()}


def _median(visits: Sequence[CellMeasurement]) -> dict[str, Any]:
    outcomes = [visit.outcome for visit in visits]
    return {
        "rounds": len(visits),
        **{name: _rounded(median_of_present([getattr(outcome, name) for outcome in outcomes])) for name in FIGURES},
        "errors": sum(sum(outcome.errors.values()) for outcome in outcomes),
        "unfinished": sum(outcome.unfinished for outcome in outcomes),
        "peak_rss_mb": round(max(visit.peak_rss_mb for visit in visits), 1),
        "least_cosine_to_fp32": round(min(visit.cosine_to_fp32 for visit in visits), 6),
    }


def offline_medians(visits: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Summarise the bare model: precision → best throughput and latency of a direct call, medians over rounds."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for visit in visits:
        found.setdefault(visit["precision"], []).append(visit)
    return {precision: _offline_median(each) for precision, each in found.items()}


def _offline_median(visits: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    sizes = visits[0]["texts_per_second"]
    by_size = {
        size: _rounded(median_of_present([visit["texts_per_second"][size] for visit in visits])) for size in sizes
    }
    return {
        "texts_per_second": by_size,
        "best_texts_per_second": max(rate for rate in by_size.values() if rate is not None),
        **{
            name: _rounded(median_of_present([visit[name] for visit in visits]))
            for name in ("direct_p50_ms", "direct_p95_ms")
        },
    }


def ratios(summary: Mapping[str, Any], offline: Mapping[str, Any]) -> dict[str, Any]:
    """Divide this project's throughput by each contender's, by cell, and its latency by that of a direct call.

    Each of its engines is compared with the other projects, and with its default.

    Args:
        summary: contender → cell → medians.
        offline: precision → medians of the bare model.

    Returns:
        Name of a ratio → cell → ratio.
    """
    ours = summary.get(OURS, {})
    precision = own_precision(offline)
    best = offline[precision]["best_texts_per_second"] if precision else None
    others = {
        f"{engine}/{name}": {key: _rounded(_over(figures, cells, key)) for key in figures}
        for engine, figures in summary.items()
        if engine.startswith(OURS)
        for name, cells in summary.items()
        if name != engine and (name == OURS or not name.startswith(OURS))
    }
    above = {key: _rounded(ratio(figures["texts_per_second"], best)) for key, figures in ours.items()}
    direct = offline[precision]["direct_p50_ms"] if precision else None
    single = ours.get(SINGLE.key, {}).get("p50_ms")
    return {**others, "onecard/offline": above, "single_client_p50/direct_p50": _rounded(ratio(single, direct))}


def own_precision(offline: Mapping[str, Any]) -> str | None:
    """The precision that this project uses on this machine: bfloat16 if it was measured."""
    return next((name for name in ("bfloat16", "float32") if name in offline), None)


def _over(ours: Mapping[str, Any], theirs: Mapping[str, Any], key: str) -> float | None:
    return ratio(ours[key]["texts_per_second"], theirs.get(key, {}).get("texts_per_second"))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def as_json(
    head: Mapping[str, Any], schedule: EncoderSchedule, contenders: Mapping[str, str], results: EncoderResults
) -> dict[str, Any]:
    """Collect all results, including the single measurements."""
    summary, offline = medians(results.cells), offline_medians(results.offline)
    return {
        "machine": dict(head),
        "schedule": {name: value for name, value in asdict(schedule).items() if name not in ("cells", "workload")},
        "workload": {"name": schedule.workload.name, "what": schedule.workload.what},
        "results": schedule.workload.results,
        "contenders": dict(contenders),
        "medians": summary,
        "offline": offline,
        "ratios": ratios(summary, offline),
        "cells": [made.as_json() for made in results.cells],
        "offline_rounds": results.offline,
    }


def as_markdown(document: Mapping[str, Any]) -> str:
    """Render the report."""
    summary = document["medians"]
    keys = list(dict.fromkeys(key for cells in summary.values() for key in cells))
    parts = [
        f"# Encoders: {document['workload']['what']}",
        machine.line(document["machine"]),
        "One machine, one run, the same weights. Medians over rounds; `32x1` is 32 clients with one text a request. "
        "[What is measured, and what this does not say](../README.md).",
        "\n".join(f"- **{name}**: {what}" for name, what in document["contenders"].items()),
        *(["## Ratios", table(_ratio_rows(document["ratios"], keys))] if OURS in summary else []),
        _direct_line(document),
        "## Throughput, texts a second",
        table([["", *keys], *([name, *_column(cells, keys, "texts_per_second")] for name, cells in summary.items())]),
        f"![throughput by clients]({document['results']}.svg)",
        "## All cells",
        table(_detail_rows(summary)),
        "## The bare model, offline",
        table(_offline_rows(document["offline"])),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _column(cells: Mapping[str, Any], keys: Sequence[str], figure: str) -> list[str]:
    return [number(cells.get(key, {}).get(figure)) for key in keys]


def _ratio_rows(found: Mapping[str, Any], keys: Sequence[str]) -> list[list[str]]:
    lines = [(name, cells) for name, cells in found.items() if isinstance(cells, Mapping)]
    return [["throughput", *keys], *([name, *(number(cells.get(key), 2) for key in keys)] for name, cells in lines)]


def _direct_line(document: Mapping[str, Any]) -> str:
    calls = {precision: figures["direct_p50_ms"] for precision, figures in document["offline"].items()}
    lines = [
        f"{name} {figures[SINGLE.key]['p50_ms']:.1f} ms"
        + "".join(f", {figures[SINGLE.key]['p50_ms'] / ms:.2f}× {precision}" for precision, ms in calls.items() if ms)
        for name, figures in document["medians"].items()
        if name.startswith(OURS) and figures.get(SINGLE.key, {}).get("p50_ms")
    ]
    head = "One client, one text: p50, and its ratio to a direct call of the model"
    return f"{head}: {'; '.join(lines)}." if lines else ""


def _detail_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    names = ["texts/s", "p50 ms", "p95 ms", "p99 ms", "errors", "unfinished", "peak RSS MB", "cosine", "rounds"]
    rows = [["contender, cell", *names]]
    for name, cells in summary.items():
        for key, cell in cells.items():
            counts = [str(cell["errors"]), str(cell["unfinished"]), number(cell["peak_rss_mb"], 0)]
            cosine = number(cell["least_cosine_to_fp32"], 5)
            rows.append([f"{name} {key}", *(number(cell[f]) for f in FIGURES), *counts, cosine, str(cell["rounds"])])
    return rows


def _offline_rows(offline: Mapping[str, Any]) -> list[list[str]]:
    sizes = list(dict.fromkeys(size for figures in offline.values() for size in figures["texts_per_second"]))
    head = ["precision", *(f"batches of {size}" for size in sizes), "direct p50 ms", "direct p95 ms"]
    rows = [
        [
            precision,
            *(number(figures["texts_per_second"].get(size)) for size in sizes),
            number(figures["direct_p50_ms"]),
            number(figures["direct_p95_ms"]),
        ]
        for precision, figures in offline.items()
    ]
    return [head, *rows]


def write(
    folder: Path,
    head: Mapping[str, Any],
    schedule: EncoderSchedule,
    contenders: Mapping[str, str],
    results: EncoderResults,
) -> None:
    """Write all three files, replacing older ones.

    Args:
        folder: folder for the files.
        head: description of the machine.
        schedule: how much was measured.
        contenders: description of each contender.
        results: the measurements.
    """
    document = as_json(head, schedule, contenders, results)
    picture = plot.by_clients(series(document), ceiling=ceiling(document))
    files.write(folder, schedule.workload.results, document, as_markdown(document), picture)


def series(document: Mapping[str, Any]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Arrange throughput for the plot: title of a panel → contender → (clients, texts per second)."""
    found: dict[int, dict[str, list[tuple[int, float]]]] = {}
    for name, cells in document["medians"].items():
        for key, figures in cells.items():
            clients, texts = map(int, key.split("x"))
            found.setdefault(texts, {}).setdefault(name, []).append((clients, figures["texts_per_second"]))
    return {
        f"{texts} text{'s' if texts > 1 else ''} a request: texts a second by clients": lines
        for texts, lines in sorted(found.items())
    }


def ceiling(document: Mapping[str, Any]) -> tuple[str, float] | None:
    """Label and best throughput of the bare model in this project's precision, if it was measured."""
    precision = own_precision(document["offline"])
    return ("bare model offline", document["offline"][precision]["best_texts_per_second"]) if precision else None
