"""Makes the encoders' `.json` and `.md` file from measurements. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bench import machine
from bench.load import SINGLE, LoadCell
from bench.measurements import Summary, by_cell, median_of_present, ratio, rounded
from bench.rounds import EncoderResults, EncoderSchedule
from bench.tables import bullets, cell_table, cells_of, figure_table, number, page

OURS = "onecard"
FIGURES = ("texts_per_second", "p50_ms", "p95_ms", "p99_ms")
COLUMNS = (
    ("texts/s", "texts_per_second", 1),
    ("p50 ms", "p50_ms", 1),
    ("p95 ms", "p95_ms", 1),
    ("p99 ms", "p99_ms", 1),
    ("errors", "errors", 0),
    ("unfinished", "unfinished", 0),
    ("peak RSS MB", "peak_rss_mb", 0),
    ("cosine", "least_cosine_to_fp32", 5),
    ("rounds", "rounds", 0),
)
Visits = Sequence[Mapping[str, Any]]


def medians(cells: Visits) -> dict[str, dict[str, dict[str, Any]]]:
    """Summarise rounds: contender → cell → medians, peak memory, and the number of errors."""
    found: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for made in sorted(cells, key=lambda each: (each["texts"], each["clients"])):
        key = LoadCell(made["texts"], made["clients"]).key
        found.setdefault(made["contender"], {}).setdefault(key, []).append(made)
    return {name: {key: _median(each) for key, each in by_key.items()} for name, by_key in found.items()}


def _median(visits: Visits) -> dict[str, Any]:
    return {
        "rounds": len(visits),
        **_medians_of(visits, FIGURES),
        "errors": sum(sum(visit["errors"].values()) for visit in visits),
        "unfinished": sum(visit["unfinished"] for visit in visits),
        "peak_rss_mb": max(visit["peak_rss_mb"] for visit in visits),
        "least_cosine_to_fp32": min(visit["cosine_to_fp32"] for visit in visits),
    }


def _medians_of(visits: Visits, names: Sequence[str]) -> dict[str, Any]:
    return {name: rounded(median_of_present([visit[name] for visit in visits])) for name in names}


def offline_medians(visits: Visits) -> dict[str, dict[str, Any]]:
    """Summarise the bare model: precision → best throughput and latency of a direct call, medians over rounds."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for visit in visits:
        found.setdefault(visit["precision"], []).append(visit)
    return {precision: _offline_median(each) for precision, each in found.items()}


def _offline_median(visits: Visits) -> dict[str, Any]:
    rates = [visit["texts_per_second"] for visit in visits]
    by_size = _medians_of(rates, [*rates[0]])
    return {
        "texts_per_second": by_size,
        "best_texts_per_second": max(by_size.values()),
        **_medians_of(visits, ("direct_p50_ms", "direct_p95_ms")),
    }


def ratios(summary: Summary, offline: Mapping[str, Any]) -> dict[str, Any]:
    """Divide our engines' throughput by each contender's, and the latency of one client by that of a direct call."""
    rates = by_cell(summary, "texts_per_second")
    # The precision that this project uses on this machine: bfloat16 if it was measured.
    bare = offline.get("bfloat16", offline.get("float32", {}))
    others = {
        f"{engine}/{name}": {key: rounded(ratio(rate, theirs.get(key))) for key, rate in mine.items()}
        for engine, mine in rates.items()
        if engine.startswith(OURS)
        for name, theirs in rates.items()
        if name != engine and (name == OURS or not name.startswith(OURS))
    }
    best, single = bare.get("best_texts_per_second"), summary.get(OURS, {}).get(SINGLE.key, {}).get("p50_ms")
    return {
        **others,
        "onecard/offline": {key: rounded(ratio(rate, best)) for key, rate in rates.get(OURS, {}).items()},
        "single_client_p50/direct_p50": rounded(ratio(single, bare.get("direct_p50_ms"))),
    }


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
        "cells": results.cells,
        "offline_rounds": results.offline,
    }


def as_markdown(document: Mapping[str, Any]) -> str:
    """Render the report."""
    summary, keys = document["medians"], cells_of(document["medians"])
    over = {name: cells for name, cells in document["ratios"].items() if isinstance(cells, Mapping)}
    offline = {
        precision: {
            **{f"batches of {size}": rate for size, rate in figures["texts_per_second"].items()},
            "direct p50 ms": figures["direct_p50_ms"],
            "direct p95 ms": figures["direct_p95_ms"],
        }
        for precision, figures in document["offline"].items()
    }
    return page(
        f"# Encoders: {document['workload']['what']}",
        machine.line(document["machine"]),
        "One machine, one run, the same weights. Medians over rounds; `32x1` is 32 clients with one text a request. "
        "[What is measured, and what this does not say](../README.md).",
        bullets(document["contenders"]),
        *(["## Ratios", figure_table("throughput", over, 2, keys=keys)] if OURS in summary else []),
        _direct_line(document),
        "## Throughput, texts a second",
        figure_table("", by_cell(summary, "texts_per_second")),
        "## All cells",
        cell_table("contender, cell", summary, COLUMNS),
        "## The bare model, offline",
        figure_table("precision", offline),
    )


def _direct_line(document: Mapping[str, Any]) -> str:
    calls = {precision: figures["direct_p50_ms"] for precision, figures in document["offline"].items()}
    lines = []
    for name, cells in by_cell(document["medians"], "p50_ms").items():
        if name.startswith(OURS) and (p50 := cells.get(SINGLE.key)):
            over = "".join(f", {number(p50 / ms, 2)}× {precision}" for precision, ms in calls.items() if ms)
            lines.append(f"{name} {p50:.1f} ms{over}")
    head = "One client, one text: p50, and its ratio to a direct call of the model"
    return f"{head}: {'; '.join(lines)}." if lines else ""
