"""`python -m bench.llm` (`make bench-llm`): measures vLLM directly and through the gateway. Every prompt is new."""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from statistics import median
from typing import Any

import typer
import uvloop

from bench import machine, texts, weights
from bench.clients import HttpLoadClient, HttpResponse, Tally, closed_loop, exchange, json_request
from bench.command import MODELS, Out, Quick, Rounds, benchmark, interleave
from bench.measurements import Figures, Measurement, medians, paired, percentile, percentiles, ratio, rounded
from bench.servers import ContenderServer, ServerFailed, Servers, service
from bench.tables import bullets, cell_table, cells_of, clients, number, page, table

KEY = "bench-key-0123456789"
MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
"""Name that the stand-in accepts."""
PATH = "/v1/chat/completions"
QUESTION = "리뷰를 요약해 overall_summary, positive_summary, negative_summary를 JSON으로 답하세요."
REVIEWS, TOKENS = 4, 64
"""Reviews in a prompt, and maximum tokens of an answer."""
DIRECT, GATEWAY, BASELINE = "vllm", "gateway", "before"
ON_A_CORE = {"LLM_MODEL": MODEL, "USE_GPU": "false", "LLM_CPU_THREADS": "1"}
"""Settings of the stand-in. It leaves a core for everything else, as on a machine with a GPU."""
WHAT = {
    DIRECT: "the LLM service on vLLM (CPU), called directly",
    GATEWAY: "the same vLLM through this project's gateway, its cache off",
    BASELINE: "the LLM service on Transformers, one request at a time: how it was done before",
}


def start(servers: Servers) -> dict[str, ContenderServer]:
    """Start the three contenders; the gateway is in front of vLLM."""
    settings = {"MODEL_CACHE_PATH": str(MODELS), "API_KEY": KEY, **ON_A_CORE}
    started: dict[str, ContenderServer] = {}
    for name, kind in ((DIRECT, "llm"), (GATEWAY, "gateway"), (BASELINE, "llm")):
        own = {"VLLM_ENABLED": str(name == DIRECT).lower(), **settings}
        if kind == "gateway":
            own = {"LLM_URL": started[DIRECT].address, "API_KEY": KEY, "CACHE_ENABLED": "false"}
        started[name] = servers.start(service(kind, own, name=name, what=WHAT[name], path=PATH))
    return started


RATE = "tokens_per_second"
COLUMNS = (
    ("tokens/s", RATE, 1),
    ("requests/s", "requests_per_second", 1),
    ("p50 ms", "p50_ms", 1),
    ("p99 ms", "p99_ms", 1),
    ("errors in a round", "errors", 0),
    ("rounds", "rounds", 0),
)
FirstTokens = Sequence[Mapping[str, Sequence[float]]]
"""Times to the first token in ms by contender, for each round."""


def first_token_figures(rounds: FirstTokens) -> dict[str, Any]:
    """Summarise times to the first token in ms: p50 and p99 by contender, and what the gateway adds to the median."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for one in rounds for name in one):
        samples = [value for one in rounds for value in one.get(name, ())]
        found[name] = {f"p{each}_ms": rounded(percentile(samples, each / 100)) for each in (50, 99)}
    added = [median(one[GATEWAY]) - median(one[DIRECT]) for one in rounds if one.get(GATEWAY) and one.get(DIRECT)]
    return {**found, "added_p50_ms": rounded(median(added)) if added else None}


def over_baseline(summary: Mapping[str, Any]) -> dict[str, float | None]:
    """Divide throughput through the gateway by that of one request at a time on Transformers, by clients."""
    once = summary.get(BASELINE, {}).get("1", {}).get(RATE)
    return {cell: rounded(ratio(figures[RATE], once)) for cell, figures in summary.get(GATEWAY, {}).items()}


def as_json(
    head: Mapping[str, Any], contenders: Mapping[str, str], visits: Sequence[Measurement], first_tokens: FirstTokens
) -> dict[str, Any]:
    """Collect all results, including the single measurements. Cells are numbers of clients."""
    summary = medians(visits, largest=["errors"])
    return {
        "machine": dict(head),
        "contenders": dict(contenders),
        "medians": summary,
        "ratios": {f"{GATEWAY}/{DIRECT}": paired(visits, GATEWAY, DIRECT, RATE)},
        "over_before": over_baseline(summary),
        "first_token": first_token_figures(first_tokens),
        "visits": [asdict(visit) for visit in visits],
        "first_tokens": list(first_tokens),
    }


def as_markdown(document: Mapping[str, Any]) -> str:
    """Render the report."""
    summary, first, direct = document["medians"], document["first_token"], f"{GATEWAY}/{DIRECT}"
    keys, over = cells_of(summary), document["over_before"]
    ratio_rows = [
        ["tokens a second", *clients(keys)],
        [direct, *(number(document["ratios"].get(direct, {}).get(key), 3) for key in keys)],
        [f"{GATEWAY}/{BASELINE} with one client", *(number(over.get(key), 2) for key in keys)],
    ]
    first_rows = [["one client, streamed", "p50 ms", "p99 ms"]]
    for name in (DIRECT, GATEWAY):
        if name in first:
            first_rows.append([name, number(first[name]["p50_ms"]), number(first[name]["p99_ms"])])
    return page(
        "# The LLM service, directly and through the gateway",
        machine.line(document["machine"]),
        "A stand-in model on a CPU: ratios say something, tokens a second do not. [What is measured, and what this "
        "does not say](../README.md#the-llm).",
        bullets(document["contenders"]),
        "## Ratios",
        table(ratio_rows),
        "## Time to the first token",
        table(first_rows),
        f"Added by the gateway, the median of the rounds' differences: **{number(first['added_p50_ms'], 2)} ms**.",
        "## All cells",
        cell_table("contender, clients", summary, COLUMNS),
    )


PAIRS = 10
"""Streams in a round, of each contender."""
MIN_ANSWERS = 48
"""Minimum of answers in one cell of a full run: eight answers of a single client take less than a second."""
MAX_CELL_SECONDS = 300.0
"""Timeout of one cell."""


def prompts(count: int, seed: str, **more: Any) -> Iterator[bytes]:
    """Prepare requests for summaries of a few reviews, greedily; the stand-in generates `TOKENS` for each."""
    reviews = iter(texts.make(weights.reviews(), count * REVIEWS, seed=seed))
    for _ in range(count):
        listed = "".join(f"\n- {review}" for review in islice(reviews, REVIEWS))
        messages = [{"role": "user", "content": QUESTION + listed}]
        body = {"model": MODEL, "messages": messages, "max_tokens": TOKENS, "temperature": 0, **more}
        yield json_request(PATH, body, {"authorization": f"Bearer {KEY}"})


async def throughput(server: ContenderServer, clients: int, answers: int, seed: str) -> Figures:
    """Measure one cell of `answers` for each client: a fixed time would end in the middle of a wave of answers."""
    tokens = 0

    def count(answer: HttpResponse) -> None:
        nonlocal tokens
        tokens += json.loads(answer.body)["usage"]["completion_tokens"] if answer.status == 200 else 0

    requests = prompts(clients * answers, seed)
    tally = await closed_loop(server.url, requests, clients=clients, seconds=MAX_CELL_SECONDS, note=count)
    return {
        RATE: tokens / tally.seconds,
        "requests_per_second": len(tally.latencies_ms) / tally.seconds,
        **percentiles(tally.latencies_ms, 50, 99),
        "errors": sum(tally.errors.values()),
    }


async def first_tokens(servers: list[ContenderServer], pairs: int, seed: str) -> dict[str, list[float]]:
    """Measure milliseconds to the first chunk of `pairs` streams of each server, one client, in random order."""
    found: dict[str, list[float]] = {server.contender.name: [] for server in servers}
    requests, order, tally = prompts(pairs * len(servers), seed, stream=True), random.Random(seed), Tally()
    clients = {server.contender.name: HttpLoadClient(server.url) for server in servers}
    for _ in range(pairs):
        for name in order.sample(list(clients), len(clients)):
            answer = await exchange(clients[name], next(requests), tally, tally.started)
            if answer is None:
                raise ServerFailed(f"{name}: no stream: {tally.errors}")
            found[name].append(answer.first_seconds * 1000)
    for client in clients.values():
        client.close()
    return found


def main(rounds: Rounds = 15, out: Out = None, quick: Quick = False) -> None:
    """Measure the LLM service on this machine's CPU with the stand-in model, and write llm.json and .md.

    It takes about ten minutes, including the start of the engines; nothing else should run meanwhile. Ctrl-C stops
    all servers.
    """
    rounds, clients, answers, least = (1, (1, 8), 4, 1) if quick else (rounds, (1, 8, 32), 8, MIN_ANSWERS)
    visits: list[Measurement] = []
    firsts: list[dict[str, list[float]]] = []
    with benchmark("llm", out, quick=quick) as run:
        with Servers() as stack:
            servers = start(stack)
            for name, server in servers.items():
                uvloop.run(throughput(server, 4, 4, f"warm-up {name}"))

            def measure(name: str, cell: str, number: int) -> Figures:
                # Every contender gets other prompts, because vLLM caches the prefixes of those that it has seen.
                each = max(answers, -(-least // int(cell)))
                return uvloop.run(throughput(servers[name], int(cell), each, f"round {number} {name} {cell}"))

            def measure_first_tokens(number: int) -> None:
                pair = [servers[DIRECT], servers[GATEWAY]]
                firsts.append(uvloop.run(first_tokens(pair, PAIRS, f"first tokens {number}")))

            # The baseline takes one request at a time.
            cells = {str(each): [name for name in WHAT if each == 1 or name != BASELINE] for each in clients}
            interleave(rounds, cells, measure, visits, after_round=measure_first_tokens)
        document = as_json(run.head, WHAT, visits, firsts)
        run.write(document, as_markdown(document))


if __name__ == "__main__":
    typer.run(main)
