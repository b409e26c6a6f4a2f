"""Measures throughput in a closed loop, and the time to the first token. Every prompt is new."""

import json
import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

from bench import texts, weights
from bench.clients import closed_loop, error_kind, send
from bench.http_client import HttpLoadClient, HttpResponse, json_request
from bench.llm.contenders import KEY, MODEL, PATH
from bench.servers import ContenderServer, ServerFailed
from bench.stats import percentile

HEADERS = {"authorization": f"Bearer {KEY}"}
QUESTION = "리뷰를 요약해 overall_summary, positive_summary, negative_summary를 JSON으로 답하세요."
REVIEWS, TOKENS = 4, 64
"""Reviews in a prompt, and maximum tokens of an answer."""
MAX_CELL_SECONDS = 300.0
"""Timeout of one cell."""


def prompts(count: int, seed: str, **more: Any) -> Iterator[bytes]:
    """Prepare requests for summaries of a few reviews, without sampling. The stand-in generates `TOKENS` for each.

    Args:
        count: number of requests.
        seed: seed of the reviews.
        more: further fields of the body.

    Yields:
        Rendered requests.
    """
    reviews = iter(texts.make(weights.reviews(), count * REVIEWS, seed=seed))
    for _ in range(count):
        listed = "".join(f"\n- {review}" for review in islice(reviews, REVIEWS))
        messages = [{"role": "user", "content": QUESTION + listed}]
        body = {"model": MODEL, "messages": messages, "max_tokens": TOKENS, "temperature": 0, **more}
        yield json_request(PATH, body, HEADERS)


async def throughput(server: ContenderServer, clients: int, answers: int, seed: str) -> dict[str, float | None]:
    """Measure one cell.

    Its length is a number of answers, not a time: requests of many clients end in waves, and an end between two of them
    would count up to a wave more or less.

    Args:
        server: the server.
        clients: number of concurrent clients.
        answers: answers per client.
        seed: seed of the prompts.

    Returns:
        Requests and tokens per second, latencies in ms, and the number of errors.
    """
    tokens = 0

    def count(answer: HttpResponse) -> None:
        nonlocal tokens
        tokens += json.loads(answer.body)["usage"]["completion_tokens"]

    requests = prompts(clients * answers, seed)
    tally, took = await closed_loop(server.url, requests, clients=clients, seconds=MAX_CELL_SECONDS, note=count)
    return {
        "requests_per_second": len(tally.latencies_ms) / took,
        "tokens_per_second": tokens / took,
        "p50_ms": percentile(tally.latencies_ms, 0.5),
        "p99_ms": percentile(tally.latencies_ms, 0.99),
        "errors": sum(tally.errors.values()),
    }


async def first_tokens(servers: list[ContenderServer], pairs: int, seed: str) -> dict[str, list[float]]:
    """Measure the time to the first chunk of a stream with one client, in random order of contenders.

    Args:
        servers: the contenders.
        pairs: streams of each.
        seed: seed of the prompts and of the order.

    Returns:
        Times in ms, by contender.

    Raises:
        ServerFailed: a response is an error or no stream.
    """
    found: dict[str, list[float]] = {server.contender.name: [] for server in servers}
    requests, order = prompts(pairs * len(servers), seed, stream=True), random.Random(seed)
    clients = {server.contender.name: HttpLoadClient(server.url) for server in servers}
    for _ in range(pairs):
        for name in order.sample(list(clients), len(clients)):
            answer = await send(clients[name], next(requests))
            if not isinstance(answer, HttpResponse) or answer.status != 200:
                raise ServerFailed(f"{name}: no stream: {error_kind(answer)}")
            found[name].append(answer.first_seconds * 1000)
    for client in clients.values():
        client.close()
    return found
