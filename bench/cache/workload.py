"""The requests of the workload, and how often each text is drawn. Pure."""

import random
from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate

from bench.gateway.requests import MODEL as LLM
from bench.http_client import json_request
from bench.paths import CLASSIFIER, MODEL

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
        return json_request("/v1/embeddings", body, {})
    if kind == "sentiment":
        return json_request("/v1/sentiment", {"input": text, "model": CLASSIFIER.name}, {})
    chat = {"model": LLM, "messages": [{"role": "user", "content": text}], "temperature": 0}
    return json_request("/v1/chat/completions", {**chat, "stream": kind == "stream"}, {})
