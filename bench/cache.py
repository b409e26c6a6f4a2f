"""`python -m bench.cache` (`make bench-cache`): measures what the cache saves."""

import itertools
import random
import time
from bisect import bisect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import accumulate
from typing import Any

import typer
import uvloop

from bench import machine, texts, weights
from bench.canned import MODEL as LLM
from bench.canned import PATH
from bench.clients import Tally, closed_loop, json_request, open_loop
from bench.command import Out, Quick, benchmark, interleave, rotated, say
from bench.measurements import Figures, Measurement, medians, percentile, percentiles, ratio, rounded
from bench.paths import CLASSIFIER, MODEL
from bench.servers import BERT_BASE, COMPUTED_TEXTS_METRIC, Servers, redis
from bench.tables import number, page, percent, table

KINDS = ("embedding", "sentiment", "chat", "stream")
DISTINCT = 10_000
"""Number of different texts in the workload."""
REQUESTS = 200_000
EXPONENT = 1.0


def zipf(count: int, distinct: int, exponent: float, *, seed: str) -> list[int]:
    """Draw `count` numbers below `distinct`, with a probability of n proportional to 1 / (n + 1) ** `exponent`."""
    rng = random.Random(seed)
    sums = list(accumulate((rank + 1) ** -exponent for rank in range(distinct)))
    return [bisect(sums, rng.random() * sums[-1], hi=distinct - 1) for _ in range(count)]


def repeated(draws: Sequence[int]) -> float:
    """Compute the share of repeated draws, which is what an unlimited cache saves."""
    return 1 - len(set(draws)) / len(draws)


def request(kind: str, text: str) -> bytes:
    """Render a request of a kind about a text, for the gateway."""
    if kind == "embedding":
        body = {"input": text, "model": MODEL.name, "encoding_format": "base64"}
        return json_request("/v1/embeddings", body)
    if kind == "sentiment":
        return json_request("/v1/sentiment", {"input": text, "model": CLASSIFIER.name})
    chat = {"model": LLM, "messages": [{"role": "user", "content": text}], "temperature": 0}
    return json_request(PATH, {**chat, "stream": kind == "stream"})


def new_text_requests(kind: str, count: int, seed: str) -> list[bytes]:
    """Prepare requests of a kind about new texts."""
    return [request(kind, text) for text in texts.make(weights.reviews(), count, seed=seed)]


HIT_RATE = 100.0
"""Hits per second in the open loop."""
MISS_RATES = {"embedding": 20.0, "sentiment": 20.0, "chat": 100.0, "stream": 100.0}
"""Misses per second in the open loop. BERT-base on a small CPU cannot keep up with more; the canned LLM can."""
KNOWN_TEXTS = 100
"""Number of texts of the hits."""
CLIENTS = 32
MAX_PREPARED_PER_SECOND = {"embedding": 200, "sentiment": 200, "chat": 4_000, "stream": 4_000}
"""Requests prepared per second of misses in a closed loop. Faster services end it early."""


def start(servers: Servers, *, cached: bool) -> None:
    """Start a canned LLM, both encoders in BERT-base's size and the gateway, with Redis and caches if `cached`."""
    settings = {"CACHE_ENABLED": str(cached).lower(), **BERT_BASE}
    if cached:
        settings["REDIS_PORT"] = str(servers.start(redis()).port)
    servers.start_canned_llm()
    for kind in ("embedding", "sentiment", "gateway"):
        servers.start_service(kind, settings)


def computed_texts(servers: Servers) -> float:
    """Count the texts that the encoders' models have processed so far."""
    return sum(servers.of(kind).metric(COMPUTED_TEXTS_METRIC) for kind in ("embedding", "sentiment"))


async def loops(url: str, one: Iterator[bytes], many: Iterator[bytes], seconds: float) -> Figures:
    """Run a closed loop of one client, then one of `CLIENTS`, each for half of `seconds`."""
    single = await closed_loop(url, one, clients=1, seconds=seconds / 2)
    tally = await closed_loop(url, many, clients=CLIENTS, seconds=seconds / 2)
    rate = ratio(len(tally.latencies_ms), tally.seconds)
    return {"single_p50_ms": percentile(single.latencies_ms, 0.5), "per_second": rate}


def _open(tally: Tally, state: str) -> Figures:
    """Summarise latencies, errors, and the share of responses in the expected state."""
    errors = sum(tally.errors.values())
    return {**percentiles(tally.latencies_ms, 50, 99), "share_as_meant": tally.share(state), "errors": errors}


async def hits(url: str, kind: str, seconds: float) -> Figures:
    """Measure hits: cached texts in an open loop, then in closed loops, each for `seconds`."""
    known = new_text_requests(kind, KNOWN_TEXTS, "known")
    await closed_loop(url, iter(known), clients=4, seconds=600)
    again = itertools.cycle(known)
    tally = await open_loop(url, itertools.islice(again, int(HIT_RATE * seconds)), rate=HIT_RATE)
    return {**_open(tally, "hit"), **await loops(url, again, again, seconds)}


async def misses(url: str, kind: str, seconds: float, seed: str) -> Figures:
    """Measure misses: new texts, in the same loops as `hits`."""
    rate, most = MISS_RATES[kind], int(MAX_PREPARED_PER_SECOND[kind] * seconds / 2)
    tally = await open_loop(url, new_text_requests(kind, int(rate * seconds), seed), rate=rate)
    one, many = (iter(new_text_requests(kind, most, f"{seed}, {way}")) for way in ("one", "many"))
    return {**_open(tally, "miss"), **await loops(url, one, many, seconds)}


async def block(servers: Servers, requests: Iterator[bytes]) -> dict[str, Any]:
    """Run one block of the workload. Returns its duration, computed texts, and responses by `x-cache`."""
    before = computed_texts(servers)
    tally = await closed_loop(servers.of("gateway").url, requests, clients=CLIENTS, seconds=600)
    return {
        "requests": len(tally.latencies_ms),
        "seconds": round(tally.seconds, 3),
        "computed": computed_texts(servers) - before,
        **percentiles(tally.latencies_ms, 50, 99),
        "x_cache": dict(tally.states),
        "errors": tally.errors,
    }


async def workload(
    cached: Servers, uncached: Servers, draws: Sequence[int], *, size: int, seconds: float
) -> list[dict[str, Any]]:
    """Send blocks of requests to the services with and without the cache, in alternating order."""
    reviews = texts.make(weights.reviews(), max(draws) + 1, seed="zipf")
    pair = {"cached": cached, "uncached": uncached}
    end, done = time.monotonic() + seconds, []
    for turn, start in enumerate(range(0, len(draws), size)):
        if time.monotonic() > end:
            break
        made: dict[str, Any] = {}
        for name in rotated([*pair], turn):
            requests = (request("embedding", reviews[draw]) for draw in draws[start : start + size])
            made[name] = await block(pair[name], requests)
        done.append(made)
        say(f"{start + size:,} requests: " + ", ".join(f"{name} {made[name]['seconds']:.1f} s" for name in pair))
    return done


Blocks = Sequence[Mapping[str, Any]]
"""Figures of each block of the workload, `cached` and `uncached`."""


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


def workload_savings(blocks: Blocks, draws: Sequence[int]) -> dict[str, Any]:
    """Compute what the cache saved in the blocks that were sent, and what it would save in the whole workload."""

    def total(name: str, figure: str) -> float:
        return sum(float(block[name][figure]) for block in blocks)

    if not blocks:
        return {}
    rates = [ratio(total(name, "requests"), total(name, "seconds")) for name in ("cached", "uncached")]
    kept = ratio(total("cached", "computed"), total("uncached", "computed"))
    states: Counter[str] = Counter()
    for block in blocks:
        states.update(block["cached"]["x_cache"])
    return {
        "requests": int(total("cached", "requests")),
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


def as_json(
    head: Mapping[str, Any], visits: Sequence[Measurement], blocks: Blocks, draws: Sequence[int]
) -> dict[str, Any]:
    """Collect all results. Contenders of the visits are `hit` and `miss`, cells are kinds of request."""
    summary = medians(visits, largest=["errors"])
    return {
        "machine": dict(head),
        "medians": summary,
        "hit_over_miss": speedups(summary),
        "workload": workload_savings(blocks, draws),
        "visits": [asdict(visit) for visit in visits],
        "blocks": list(blocks),
    }


def as_markdown(document: Mapping[str, Any]) -> str:
    """Render the report."""
    return page(
        "# The cache, through the gateway",
        machine.line(document["machine"]),
        "Encoders with BERT-base's shape; the LLM is canned, so that its misses cost only what the gateway takes. "
        "[What is measured, and what this does not say](../README.md#the-cache).",
        "## Hits and misses",
        table(_latency_rows(document["medians"])),
        f"In a closed loop, requests a second from {CLIENTS} clients, and one client's median:",
        table(_loop_rows(document)),
        *_workload_part(document["workload"]),
    )


def _latency_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    rows = [["", "requests/s sent", "p50 ms", "p99 ms", "as meant", "errors in a round", "rounds"]]
    for name, kinds in summary.items():
        for kind, cell in kinds.items():
            rate = HIT_RATE if name == "hit" else MISS_RATES[kind]
            figures = [number(rate, 0), number(cell["p50_ms"], 2), number(cell["p99_ms"], 2)]
            counts = [percent(cell["share_as_meant"], 1), number(cell["errors"], 0), str(cell["rounds"])]
            rows.append([f"{kind}, {name}", *figures, *counts])
    return rows


def _loop_rows(document: Mapping[str, Any]) -> list[list[str]]:
    rows = [["", "hits/s", "misses/s", "hits over misses", "hit p50 ms", "miss p50 ms", "times faster"]]
    for kind, times in document["hit_over_miss"].items():
        both = [document["medians"].get(name, {}).get(kind, {}) for name in ("hit", "miss")]
        rates = [number(each.get("per_second"), 0) for each in both]
        waits = [number(each.get("single_p50_ms"), 2) for each in both]
        rows.append([kind, *rates, number(times["throughput"], 1), *waits, number(times["latency"], 1)])
    return rows


def _workload_part(found: Mapping[str, Any]) -> list[str]:
    if not found:
        return []
    states = ", ".join(f"{state} {count:,}" for state, count in sorted(found["x_cache"].items()))
    rows = [
        ["", "with the cache", "without"],
        ["requests a second", *map(number, found["per_second"])],
        ["seconds for the same requests", *map(number, found["seconds"])],
    ]
    return [
        f"## A workload as it comes: {found['requests']:,} requests, Zipf",
        table(rows),
        f"Model calls saved: **{percent(found['model_calls_saved'])}**. Throughput: "
        f"**{number(found['times_the_throughput'], 2)}×**. Time saved: **{percent(found['time_saved'])}**. "
        f"`x-cache`: {states}. Errors: {found['errors']}.",
        f"Of all {found['whole_workload_requests']:,} requests {percent(found['whole_workload_repeated'])} repeat a "
        "text; that is what the cache would save in the end, counted and not measured.",
    ]


def main(out: Out = None, quick: Quick = False) -> None:
    """Measure the cache on this machine, through the gateway, and write cache.json and .md.

    It takes about ten minutes; nothing else should run meanwhile. Ctrl-C stops all servers.
    """
    rounds, seconds, workload_seconds, size = (1, 2.0, 20.0, 200) if quick else (3, 5.0, 180.0, 1_000)
    visits: list[Measurement] = []
    draws = zipf(REQUESTS, DISTINCT, EXPONENT, seed="zipf")
    with benchmark("cache", out, quick=quick) as run:
        weights.build()
        weights.build_classifier()
        with Servers("cached-") as cached, Servers("uncached-") as uncached:
            start(cached, cached=True)
            url = cached.of("gateway").url

            def visit(name: str, kind: str, number: int) -> Figures:
                if name == "hit":
                    return uvloop.run(hits(url, kind, seconds))
                return uvloop.run(misses(url, kind, seconds, f"round {number} {kind}"))

            interleave(rounds, dict.fromkeys(KINDS, ("hit", "miss")), visit, visits)
            start(uncached, cached=False)
            blocks = uvloop.run(workload(cached, uncached, draws, size=size, seconds=workload_seconds))
        document = as_json(run.head, visits, blocks, draws)
        run.write(document, as_markdown(document))


if __name__ == "__main__":
    typer.run(main)
