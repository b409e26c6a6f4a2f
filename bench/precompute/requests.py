"""What is asked. Pure."""

import random
from typing import Any
from urllib.parse import quote

from bench import texts, weights
from bench.http_client import get_request, json_request

KINDS = ("sentiment", "embedding", "search")
"""Of live requests."""
KNOWN_SEARCHES = 50
"""That users make again and again, so that they are made ready: as many as the worker's default."""
ANSWERS = ("sentiment", "summary", "strengths")
"""About a restaurant."""


def live(kind: str, count: int, seed: str) -> list[bytes]:
    """`count` requests about texts that nobody has asked about."""
    return [_live(kind, text) for text in texts.make(weights.reviews(), count, seed=f"{seed}, {kind}")]


def _live(kind: str, text: str) -> bytes:
    if kind == "search":
        return json_request("/v1/reviews/search", {"query": text}, {})
    path = "/v1/embeddings" if kind == "embedding" else "/v1/sentiment"
    return json_request(path, {"input": text}, {})


def edits(sample: list[dict[str, Any]], count: int, seed: str) -> list[bytes]:
    """`count` requests that each change a review: one that is stored already, with another text."""
    rng = random.Random(seed)
    made = texts.make(weights.reviews(), count, seed=f"{seed}, edits")
    return [json_request("/v1/reviews", {**rng.choice(sample), "text": text}, {}) for text in made]


def popular(restaurants: list[str]) -> list[bytes]:
    """Requests that are made ready: all answers about the restaurants, and known searches."""
    folders = [f"/v1/restaurants/{quote(restaurant, safe='')}" for restaurant in restaurants]
    about = [get_request(f"{folder}/{what}") for folder in folders for what in ANSWERS]
    return [*about, *live("search", KNOWN_SEARCHES, "known")]
