"""The day's traffic: what is asked, how often, how large, and what repeats. Seeded and pure."""

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench import texts
from bench.cache import DISTINCT, EXPONENT, REQUESTS, zipf
from bench.clients import get_request, json_request
from bench.llm import MODEL as LLM
from bench.llm import QUESTION, TOKENS

MIX = {"search": 35, "restaurant": 25, "sentiment": 15, "chat": 15, "embedding": 10}
"""Requests of each kind in a hundred."""
TEXTS = {"search": 1, "restaurant": 10, "sentiment": 1, "chat": 4, "embedding": 1}
"""Reviews, or search texts, in a request of each kind."""
RESTAURANTS = 40
DAY = "zipf"
"""Seed of the traffic that repeats; restaurants and popular searches are known from the day before."""
SERVICES = {"search": "review", "restaurant": "sentiment", "sentiment": "sentiment", "chat": "llm"}
"""Which service answers a kind; what is missing here goes to the embedding service."""


@dataclass(frozen=True)
class Ask:
    """One request, before a phase decides how it is sent."""

    kind: str
    number: int
    """Which restaurant, or which text of its kind."""
    texts: list[str]


@dataclass(frozen=True)
class Cell:
    """A part of the measurement: a mix of kinds from so many clients."""

    name: str
    kinds: Mapping[str, int]
    repeats: bool
    clients: int

    def asks(self, samples: Sequence[str]) -> Iterator[Ask]:
        """Make the requests in order, the same for each phase. `samples` are the reviews that texts are made of."""
        day = DAY if self.repeats else self.name
        rng = random.Random(f"{day}, kinds")
        draws: dict[str, Iterator[int]] = {kind: itertools.count() for kind in self.kinds}
        if self.repeats:
            distinct = {kind: RESTAURANTS if kind == "restaurant" else DISTINCT for kind in self.kinds}
            draws = {kind: iter(zipf(REQUESTS, most, EXPONENT, seed=kind)) for kind, most in distinct.items()}
        while True:
            (kind,) = rng.choices(list(self.kinds), list(self.kinds.values()))
            if (number := next(draws[kind], None)) is None:
                return
            yield Ask(kind, number, texts_of(samples, day, kind, number))


CELLS = (
    Cell("no repeats", MIX, repeats=False, clients=32),
    Cell("Zipf", MIX, repeats=True, clients=32),
    *(Cell(kind, {kind: 1}, repeats=False, clients=32) for kind in ("sentiment", "embedding", "chat")),
    *(Cell(f"{kind}, one client", {kind: 1}, repeats=True, clients=1) for kind in ("restaurant", "search")),
)


def texts_of(samples: Sequence[str], day: str, kind: str, number: int) -> list[str]:
    """Make the texts of a request."""
    return texts.make(samples, TEXTS[kind], seed=f"{day} {kind} {number}")


def request(ask: Ask, *, ready: bool) -> tuple[str, bytes]:
    """Render a request for its service. If `ready`, a restaurant is asked for by name; else its reviews are sent."""
    if ask.kind == "restaurant" and ready:
        return "review", get_request(f"/v1/restaurants/rest-{ask.number}/sentiment")
    if ask.kind == "search":
        path, body = "/v1/reviews/search", {"query": ask.texts[0], "mode": "vector", "top_k": 10}
    elif ask.kind == "chat":
        question = QUESTION + "".join(f"\n- {text}" for text in ask.texts)
        messages = [{"role": "user", "content": question}]
        body = {"model": LLM, "messages": messages, "max_tokens": TOKENS, "temperature": 0}
        path = "/v1/chat/completions"
    else:
        path = "/v1/embeddings" if ask.kind == "embedding" else "/v1/sentiment"
        body = {"input": ask.texts}
    return SERVICES.get(ask.kind, "embedding"), json_request(path, body)


def stored(samples: Sequence[str], day: str) -> list[dict[str, Any]]:
    """Make the reviews of all restaurants, as they are stored before the day begins."""
    return [
        {"review_id": f"{number}-{place}", "restaurant_id": f"rest-{number}", "text": text}
        for number in range(RESTAURANTS)
        for place, text in enumerate(texts_of(samples, day, "restaurant", number))
    ]
