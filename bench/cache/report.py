"""Makes `cache.json`, `cache.md` and `cache.svg` from measurements. Pure except `write`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import files, machine, plot
from bench.cache.measure import CLIENTS, HIT_RATE, MISS_RATES
from bench.cache.workload import repeated
from bench.measurements import Measurement, medians, rounded
from bench.stats import ratio
from bench.tables import number, table


@dataclass
class CacheResults:
    """All measurements so far."""

    visits: list[Measurement] = field(default_factory=list)
    """Contenders are `hit` and `miss`, cells are kinds of request."""
    blocks: list[dict[str, Any]] = field(default_factory=list)
    """Figures of each block of the workload, `cached` and `uncached`."""
    draws: Sequence[int] = ()
    """Number of the text of each request of the whole workload."""


def speedups(summary: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """Compare hits with misses: kind → ratio of one client's median latency, and of many clients' throughput."""
    hit, miss = summary.get("hit", {}), summary.get("miss", {})
    return {
        kind: {
            "latency": rounded(ratio(miss.get(kind, {}).get("single_p50_ms"), figures["single_p50_ms"])),
            "throughput": rounded(ratio(figures["per_second"], miss.get(kind, {}).get("per_second"))),
        }
        for kind, figures in hit.items()
    }


def workload_savings(blocks: Sequence[Mapping[str, Any]], draws: Sequence[int]) -> dict[str, Any]:
    """Compute what the cache saved in the blocks that were sent, and what it would save in the whole workload."""

    def total(name: str, figure: str) -> float:
        return sum(float(block[name][figure]) for block in blocks)

    if not blocks:
        return {}
    sent, answered = total("uncached", "requests"), total("cached", "requests")
    rates = [ratio(count, total(name, "seconds")) for name, count in (("cached", answered), ("uncached", sent))]
    kept = ratio(total("cached", "computed"), total("uncached", "computed"))
    states: Counter[str] = Counter()
    for block in blocks:
        states.update(block["cached"]["x_cache"])
    return {
        "requests": int(answered),
        "errors": sum(sum(block[name]["errors"].values()) for block in blocks for name in block),
        "x_cache": dict(states),
        "model_calls_saved": None if kept is None else rounded(1 - kept),
        "per_second": [rounded(rate) for rate in rates],
        "times_the_throughput": rounded(ratio(*rates)),
        "seconds": [rounded(total(name, "seconds")) for name in ("cached", "uncached")],
        "time_saved": rounded(1 - total("cached", "seconds") / total("uncached", "seconds")),
        "whole_workload_requests": len(draws),
        "whole_workload_repeated": rounded(repeated(draws)),
    }


def as_json(head: Mapping[str, Any], results: CacheResults) -> dict[str, Any]:
    """Collect all results, including the single measurements."""
    summary = medians(results.visits, largest=["errors"])
    return {
        "machine": dict(head),
        "medians": summary,
        "hit_over_miss": speedups(summary),
        "workload": workload_savings(results.blocks, results.draws),
        "visits": [asdict(visit) for visit in results.visits],
        "blocks": results.blocks,
    }


def as_markdown(document: Mapping[str, Any]) -> str:
    """Render the report."""
    parts = [
        "# The cache, through the gateway",
        machine.line(document["machine"]),
        "Encoders with BERT-base's shape; the LLM is canned, so that its misses cost only what the gateway takes. "
        "[What is measured, and what this does not say](../README.md#the-cache).",
        "## Hits and misses",
        table(_latency_rows(document["medians"])),
        f"In a closed loop, requests a second from {CLIENTS} clients, and one client's median:",
        table(_loop_rows(document)),
        *_workload_part(document["workload"]),
    ]
    return "\n\n".join(parts) + "\n"


def _latency_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    rows = [["", "requests/s sent", "p50 ms", "p99 ms", "as meant", "errors in a round", "rounds"]]
    for name, kinds in summary.items():
        for kind, cell in kinds.items():
            rate = HIT_RATE if name == "hit" else MISS_RATES[kind]
            share = cell["share_as_meant"]
            meant = number(None if share is None else 100 * share, 1, " %")
            figures = [number(rate, 0), number(cell["p50_ms"], 2), number(cell["p99_ms"], 2), meant]
            rows.append([f"{kind}, {name}", *figures, number(cell["errors"], 0), str(cell["rounds"])])
    return rows


def _loop_rows(document: Mapping[str, Any]) -> list[list[str]]:
    head = ["", "hits/s", "misses/s", "hits over misses", "hit p50 ms", "miss p50 ms", "times faster"]
    rows, summary = [head], document["medians"]
    for kind, times in document["hit_over_miss"].items():
        hit, miss = (summary.get(name, {}).get(kind, {}) for name in ("hit", "miss"))
        rates = [number(each.get("per_second"), 0) for each in (hit, miss)]
        waits = [number(each.get("single_p50_ms"), 2) for each in (hit, miss)]
        rows.append([kind, *rates, number(times["throughput"], 1), *waits, number(times["latency"], 1)])
    return rows


def _workload_part(found: Mapping[str, Any]) -> list[str]:
    if not found:
        return []
    cached, uncached = found["per_second"]
    seconds = found["seconds"]
    states = ", ".join(f"{state} {count:,}" for state, count in sorted(found["x_cache"].items()))
    rows = [
        ["", "with the cache", "without"],
        ["requests a second", number(cached), number(uncached)],
        ["seconds for the same requests", number(seconds[0]), number(seconds[1])],
    ]
    return [
        f"## A workload as it comes: {found['requests']:,} requests, Zipf",
        table(rows),
        f"Model calls saved: **{_percent(found['model_calls_saved'])}**. Throughput: "
        f"**{number(found['times_the_throughput'], 2)}×**. Time saved: **{_percent(found['time_saved'])}**. "
        f"`x-cache`: {states}. Errors: {found['errors']}.",
        f"Of all {found['whole_workload_requests']:,} requests {_percent(found['whole_workload_repeated'])} repeat a "
        "text; that is what the cache would save in the end, counted and not measured.",
        "![requests a second, by requests so far](cache.svg)",
    ]


def _percent(share: float | None) -> str:
    return number(None if share is None else 100 * share, 0, " %")


def write(folder: Path, head: Mapping[str, Any], results: CacheResults) -> None:
    """Write all three files."""
    document, sent = as_json(head, results), 0
    lines: dict[str, list[tuple[int, float]]] = {"cached": [], "uncached": []}
    for block in results.blocks:
        sent += block["cached"]["requests"]
        for name, points in lines.items():
            points.append((sent, block[name]["requests"] / block[name]["seconds"]))
    picture = plot.by_clients({"requests a second, by requests so far": lines})
    files.write(folder, "cache", document, as_markdown(document), picture)
