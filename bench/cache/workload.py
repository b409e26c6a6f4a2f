"""What is asked, and how often. Pure."""

import random
from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate

from bench.gateway.requests import MODEL as LLM
from bench.http_client import json_request
from bench.paths import CLASSIFIER, MODEL

KINDS = ("embedding", "sentiment", "chat", "stream")


def zipf(count: int, distinct: int, exponent: float, *, seed: str) -> list[int]:
    """`count` draws of 0 to `distinct` - 1; the chance of n is proportional to 1 / (n + 1) ** `exponent`."""
    rng = random.Random(seed)
    sums = list(accumulate((rank + 1) ** -exponent for rank in range(distinct)))
    return [bisect(sums, rng.random() * sums[-1], hi=distinct - 1) for _ in range(count)]


def repeated(draws: Sequence[int]) -> float:
    """The share of draws that have been drawn before: what a cache that forgets nothing can save."""
    return 1 - len(set(draws)) / len(draws)


def request(kind: str, text: str) -> bytes:
    """One request about one text, for the gateway."""
    if kind == "embedding":
        body = {"input": text, "model": MODEL.name, "encoding_format": "base64"}
        return json_request("/v1/embeddings", body, {})
    if kind == "sentiment":
        return json_request("/v1/sentiment", {"input": text, "model": CLASSIFIER.name}, {})
    chat = {"model": LLM, "messages": [{"role": "user", "content": text}], "temperature": 0}
    return json_request("/v1/chat/completions", {**chat, "stream": kind == "stream"}, {})
