"""The requests of the benchmark. Pure."""

import random
from typing import Any
from urllib.parse import quote

from bench import texts, weights
from bench.http_client import get_request, json_request

KINDS = ("sentiment", "embedding", "search")
"""Kinds of live requests."""
KNOWN_SEARCHES = 50
"""Number of repeated searches, which are precomputed: the worker's default."""
ANSWERS = ("sentiment", "summary", "strengths")
"""Precomputed responses about a restaurant."""


def live(kind: str, count: int, seed: str) -> list[bytes]:
    """Prepare `count` requests of a kind about new texts."""
    return [_live(kind, text) for text in texts.make(weights.reviews(), count, seed=f"{seed}, {kind}")]


def _live(kind: str, text: str) -> bytes:
    if kind == "search":
        return json_request("/v1/reviews/search", {"query": text}, {})
    path = "/v1/embeddings" if kind == "embedding" else "/v1/sentiment"
    return json_request(path, {"input": text}, {})


def edits(sample: list[dict[str, Any]], count: int, seed: str) -> list[bytes]:
    """Prepare `count` requests, each of which gives a stored review another text."""
    rng = random.Random(seed)
    made = texts.make(weights.reviews(), count, seed=f"{seed}, edits")
    return [json_request("/v1/reviews", {**rng.choice(sample), "text": text}, {}) for text in made]


def popular(restaurants: list[str]) -> list[bytes]:
    """Prepare the requests that are precomputed: all responses about the restaurants, and the repeated searches."""
    folders = [f"/v1/restaurants/{quote(restaurant, safe='')}" for restaurant in restaurants]
    about = [get_request(f"{folder}/{what}") for folder in folders for what in ANSWERS]
    return [*about, *live("search", KNOWN_SEARCHES, "known")]
