"""What is made ready before it is asked for, and whether it is a good time for it. Pure."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Literal
from urllib.parse import quote

from prometheus_client.parser import text_string_to_metric_families

Outcome = Literal["waiting", "current", "computed", "paused", "failed"]
"""Of an errand. current: its answer lay ready. paused: it was left for later, since live traffic waits."""
State = Literal["none", "running", "paused", "idle"]

ROUND_SECONDS = 900
"""A round that is not through by then has lost errands: the next one does not wait for it."""

_OF_A_RESTAURANT = ("sentiment", "summary", "strengths")
_WAITING = {
    "vllm:num_requests_waiting": {},
    "onecard_queue_tokens": {"lane": "interactive"},
}
"""Gauges of the services, with the labels that count, that are above 0 while live traffic waits."""


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


def live_traffic_waits(metrics: Sequence[str]) -> bool:
    """Whether requests of users wait for a model, by the services' `/metrics`."""
    return any(
        sample.value > 0
        for text in metrics
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name in _WAITING and _WAITING[sample.name].items() <= sample.labels.items()
    )


@dataclass(frozen=True)
class Round:
    """One look at all that is popular."""

    started_at: int
    """Unix seconds."""
    outcomes: Mapping[str, Outcome]
    """By the errand's name."""

    @property
    def state(self) -> State:
        """What is going on."""
        outcomes = set(self.outcomes.values())
        return "running" if "waiting" in outcomes else "paused" if "paused" in outcomes else "idle"

    def count(self, outcome: Outcome) -> int:
        """How many errands have come to it."""
        return sum(found == outcome for found in self.outcomes.values())

    def under_way(self, now: float) -> bool:
        """It is not through, and will be."""
        return self.state == "running" and now < self.started_at + ROUND_SECONDS
