"""What the strategy promises, how each promise is measured here, and why the figures differ. Pure."""

from collections.abc import Callable
from typing import NamedTuple

from bench.measurements import Summary, ratio
from bench.tables import number

DAYS = ("no repeats", "Zipf")
NOT_MEASURED = "not measured here"


class Promise(NamedTuple):
    """One figure of the strategy."""

    what: str
    promised: str
    measured: Callable[[Summary], str]
    why: str


def figure(summary: Summary, phase: str, cell: str, name: str) -> float | None:
    """Look up a figure; None if it was not measured."""
    found: float | None = summary.get(phase, {}).get(cell, {}).get(name)
    return found


def over(phase: str, other: str, cell: str, name: str = "per_second") -> Callable[[Summary], float | None]:
    """Divide a figure of a phase by that of another one."""
    return lambda summary: ratio(figure(summary, phase, cell, name), figure(summary, other, cell, name))


def times(phase: str, other: str, *cells: str) -> Callable[[Summary], str]:
    """Compare the throughput of two phases in some cells."""
    return lambda summary: " / ".join(number(over(phase, other, cell)(summary), 1, " ×") for cell in cells)


def percent(found: float | None) -> str:
    """Write a ratio as a change in percent."""
    return "–" if found is None else f"{100 * (found - 1):+.0f} %".replace("-", "−")


def change(value: Callable[[Summary], float | None]) -> Callable[[Summary], str]:
    """Write a ratio of figures as a change in percent."""
    return lambda summary: percent(value(summary))


def cost_change(summary: Summary) -> str:
    """Compare the cost of a request in the last phase with that at the start, for both days."""
    return " / ".join(change(over("before", "phase 3", cell))(summary) for cell in DAYS)


def cached_latency(summary: Summary) -> str:
    """Show the latency of cached answers under load, p50 and p99."""
    parts = []
    for phase in ("phase 2", "phase 3"):
        p50, p99 = (figure(summary, phase, "Zipf", name) for name in ("hit_p50_ms", "hit_p99_ms"))
        parts.append(f"{phase}: {number(p50, 1)}, {number(p99, 1, ' ms')}")
    return "; ".join(parts)


def saved_calls(summary: Summary) -> str:
    """Show the share of requests that no model computed, for both days."""
    shares = [figure(summary, "phase 2", cell, "saved_share") for cell in DAYS]
    computed = [None if share is None else 1 - share for share in shares]
    return " / ".join(percent(one) for one in computed)


def ready_answers(summary: Summary) -> str:
    """Divide the median of computed answers by that of answers that lie ready; one client."""
    parts = []
    for kind in ("restaurant", "search"):
        cell = f"{kind}, one client"
        computed, ready = figure(summary, "phase 1", cell, "p50_ms"), figure(summary, "phase 3", cell, "hit_p50_ms")
        parts.append(f"{kind} {number(ratio(computed, ready), 0, ' ×')}")
    return ", ".join(parts)


def not_measured(_: Summary) -> str:
    """What needs a card."""
    return NOT_MEASURED


SMALL_LLM = "the stand-in is so small that what surrounds it costs more than its own computing"
CPU = "half precision and batches fill a card; a core is busy with one text"

PROMISES = (
    Promise("Phase 1: sentiment", "2–5 ×", times("phase 1", "before", "sentiment"), CPU),
    Promise("Phase 1: vector search", "3–10 ×", times("phase 1", "before", "embedding"), f"its embeddings; {CPU}"),
    Promise("Phase 1: FlashAttention-2, speed", "1.5–2 ×", not_measured, "it needs a card; here SDPA computes"),
    Promise("Phase 1: FlashAttention-2, memory", "−10 to −20 %", not_measured, "it needs a card"),
    Promise(
        "Phase 1: memory of half precision",
        "−50 %",
        change(over("phase 1", "before", DAYS[0], "resident_mb")),
        "weights are halved, but these are four processes with their libraries in place of one",
    ),
    Promise(
        "Phase 1: throughput by dynamic batches",
        "2–3 ×",
        times("phase 1", "before", *DAYS),
        f"measured together with half precision; {CPU}",
    ),
    Promise("Phase 1: speed", "2–5 ×", times("phase 1", "before", *DAYS), CPU),
    Promise("Phase 2: vLLM over Transformers", "5–10 ×", times("phase 1 + vLLM", "before", "chat"), SMALL_LLM),
    Promise(
        "Phase 2: requests at a time",
        "10 ×",
        times("phase 1 + vLLM", "before", "chat"),
        "chats answered by vLLM for 32 clients, in the time that the start needs for one",
    ),
    Promise(
        "Phase 2: latency",
        "−50 %",
        change(over("phase 1 + vLLM", "before", "chat", "p50_ms")),
        "chats of 32 clients, of whom the start lets 31 wait",
    ),
    Promise(
        "Phases 2 and 3: what is cached",
        "below 100 ms",
        cached_latency,
        "p50 and p99 with Zipf's repeats, under full load",
    ),
    Promise(
        "Phase 2: calls of models",
        "−30 to −50 %",
        saved_calls,
        "repeats decide it: none, none saved; the longer the day, the more",
    ),
    Promise(
        "Phase 2: speed",
        "10–20 ×",
        times("phase 2", "before", *DAYS),
        "without repeats the cache saves nothing, and the gateway costs a little",
    ),
    Promise(
        "Phase 3: TensorRT on embeddings, speed",
        "3–10 × more",
        times("phase 3", "phase 1", "embedding"),
        "no card, so no TensorRT: OpenVINO, where it is faster than torch in packed rows",
    ),
    Promise(
        "Phase 3: TensorRT, memory",
        "−50 % more",
        change(over("phase 3", "phase 2", DAYS[0], "resident_mb")),
        "all processes, and one more that precomputes; weights are no smaller in the same precision",
    ),
    Promise(
        "Phase 3: load at the peak, by precomputing",
        "−50 to −70 %",
        change(over("phase 3", "phase 1", "Zipf", "texts_per_request")),
        "texts that encoders compute for a request, with the cache; imports and rounds computed theirs before",
    ),
    Promise(
        "Phase 3: answers, by precomputing",
        "10–100 ×",
        ready_answers,
        "one client; ten reviews or a search, computed (phase 1) and ready",
    ),
    Promise("Phase 3: speed", "20–50 ×", times("phase 3", "before", *DAYS), "all of the above together"),
    Promise(
        "Phase 3: cost", "−85 to −95 %", cost_change, "follows the speed: the machine costs the same in each phase"
    ),
)
