"""What is made ready before it is asked for, and whether it is a good time for it. Pure."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Literal
from urllib.parse import quote

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

Outcome = Literal["waiting", "current", "computed", "paused", "failed"]
"""Of an errand. current: its answer lay ready. paused: it was left for later, since live traffic waits."""
State = Literal["none", "running", "paused", "idle"]
Users = Literal["none", "served", "wait"]
"""served: users are there, and answered at once. wait: they ask for more than the models can do."""

ROUND_SECONDS = 900
"""What of a round is not done by then is not done any more: it is left to the next one."""

_OF_A_RESTAURANT = ("sentiment", "summary", "strengths")
REST_TIMES = 24
"""While users are there the worker rests after each errand so many times as long as it took: of their requests so few
meet one that their p95 hardly moves."""
MOST_REST_SECONDS = 2.0
"""An errand that takes long waits for the LLM, where users go first."""

_LIVE = {"lane": "interactive"}
_WAITING = ("vllm:num_requests_waiting", "onecard_queue_tokens")
"""Gauges of the services that are above 0 while requests wait; those of the encoders are by lane."""
_GENERATING = "vllm:num_requests_running"
"""Between errands, these are users'."""
_SERVED = ("onecard_queue_seconds_count", "onecard_review_requests_total")
"""Counters of requests by lane: those that an encoder computed, and all that ask the review service about reviews."""


@dataclass(frozen=True)
class Errand:
    """A request to the review service whose answer is to lie ready."""

    path: str
    query: str | None = None
    """The canonical JSON of a search; None for a GET."""

    @property
    def name(self) -> str:
        """Short, and without words of a user's."""
        return blake2b(f"{self.path} {self.query}".encode(), digest_size=8).hexdigest()

    def as_json(self) -> dict[str, str | None]:
        """For a task's message; `Errand(**given)` reads it."""
        return asdict(self)


def errands(restaurants: Iterable[str], queries: Iterable[str]) -> list[Errand]:
    """All that is to lie ready for these restaurants (ids) and searches (canonical JSON)."""
    folders = [f"/v1/restaurants/{quote(restaurant, safe='')}" for restaurant in restaurants]
    paths = [f"{folder}/{what}" for folder in folders for what in _OF_A_RESTAURANT]
    return [*map(Errand, paths), *(Errand("/v1/reviews/search", query) for query in queries)]


def canonical(search: Mapping[str, object]) -> str:
    """A search as one text, whatever the order of its fields; those that are not set are left out."""
    given = {name: value for name, value in search.items() if value is not None}
    return json.dumps(given, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True)
class Sight:
    """What the services' metrics say of users, between two errands."""

    waits: bool
    """Requests of theirs wait for a model."""
    generating: bool
    """The LLM writes for them."""
    served: float
    """Requests of theirs that the encoders and the review service have counted so far."""


def sight(metrics: Sequence[str]) -> Sight:
    """From the services' `/metrics`; what cannot be read counts as empty."""
    samples = [
        sample
        for text in metrics
        for sample in _samples(text)
        if _LIVE.items() <= sample.labels.items() or "lane" not in sample.labels
    ]
    return Sight(
        waits=any(sample.value > 0 for sample in samples if sample.name in _WAITING),
        generating=any(sample.value > 0 for sample in samples if sample.name == _GENERATING),
        served=sum(sample.value for sample in samples if sample.name in _SERVED),
    )


def _samples(text: str) -> list[Sample]:
    try:
        return [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    except Exception:  # The parser says of none what it raises.
        return []


def rest_seconds(users: Users, took_seconds: float) -> float:
    """How long the worker rests after an errand; after one that was left for later, too, so that a queue of a moment
    does not cost the whole round."""
    if users == "wait":
        return MOST_REST_SECONDS
    return 0.0 if users == "none" else min(MOST_REST_SECONDS, REST_TIMES * took_seconds)


@dataclass(frozen=True)
class Round:
    """One look at all that is popular."""

    started_at: int
    """Unix seconds."""
    outcomes: Mapping[str, Outcome]
    """By the errand's name."""

    def state(self, now: float) -> State:
        """What is going on at `now` (Unix seconds)."""
        if self.under_way(now):
            return "running"
        return "idle" if {"waiting", "paused"}.isdisjoint(self.outcomes.values()) else "paused"

    def count(self, outcome: Outcome) -> int:
        """How many errands have come to it."""
        return sum(found == outcome for found in self.outcomes.values())

    def under_way(self, now: float) -> bool:
        """It is not through, and will be."""
        return "waiting" in self.outcomes.values() and now < self.started_at + ROUND_SECONDS
