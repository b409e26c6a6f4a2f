"""What is made ready before it is asked for, and whether it is a good time for it. Pure."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Literal
from urllib.parse import quote

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

JobOutcome = Literal["waiting", "current", "computed", "paused", "failed"]
"""Of an errand. current: its answer lay ready. paused: it was left for later, since live traffic waits."""
RoundState = Literal["none", "running", "paused", "idle"]
UserLoad = Literal["none", "served", "wait"]
"""served: users are there, and answered at once. wait: they ask for more than the models can do."""

ROUND_TIMEOUT_SECONDS = 900
"""What of a round is not done by then is not done any more: it is left to the next one."""

_RESTAURANT_RESOURCES = ("sentiment", "summary", "strengths")
REST_FACTOR = 24
"""While users are there the worker rests after each errand so many times as long as it took: of their requests so few
meet one that their p95 hardly moves."""
MAX_REST_SECONDS = 2.0
"""An errand that takes long waits for the LLM, where users go first."""

_INTERACTIVE_LABELS = {"lane": "interactive"}
_QUEUE_GAUGES = ("vllm:num_requests_waiting", "onecard_queue_tokens")
"""Gauges of the services that are above 0 while requests wait; those of the encoders are by lane."""
_RUNNING_GAUGE = "vllm:num_requests_running"
"""Between errands, these are users'."""
_REQUEST_COUNTERS = ("onecard_queue_seconds_count", "onecard_review_requests_total")
"""Counters of requests by lane: those that an encoder computed, and all that ask the review service about reviews."""


@dataclass(frozen=True)
class RefreshJob:
    """A request to the review service whose answer is to lie ready."""

    path: str
    query: str | None = None
    """The canonical JSON of a search; None for a GET."""

    @property
    def name(self) -> str:
        """Short, and without words of a user's."""
        return blake2b(f"{self.path} {self.query}".encode(), digest_size=8).hexdigest()

    def as_json(self) -> dict[str, str | None]:
        """For a task's message; `RefreshJob(**given)` reads it."""
        return asdict(self)


def refresh_jobs(restaurants: Iterable[str], queries: Iterable[str]) -> list[RefreshJob]:
    """All that is to lie ready for these restaurants (ids) and searches (canonical JSON)."""
    folders = [f"/v1/restaurants/{quote(restaurant, safe='')}" for restaurant in restaurants]
    paths = [f"{folder}/{what}" for folder in folders for what in _RESTAURANT_RESOURCES]
    return [*map(RefreshJob, paths), *(RefreshJob("/v1/reviews/search", query) for query in queries)]


def canonical_json(search: Mapping[str, object]) -> str:
    """A search as one text, whatever the order of its fields; those that are not set are left out."""
    given = {name: value for name, value in search.items() if value is not None}
    return json.dumps(given, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True)
class LoadSnapshot:
    """What the services' metrics say of users, between two errands."""

    queued: bool
    """Requests of theirs wait for a model."""
    generating: bool
    """The LLM writes for them."""
    requests_served: float
    """Requests of theirs that the encoders and the review service have counted so far."""


def parse_load(metrics: Sequence[str]) -> LoadSnapshot:
    """From the services' `/metrics`; what cannot be read counts as empty."""
    samples = [
        sample
        for text in metrics
        for sample in _samples(text)
        if _INTERACTIVE_LABELS.items() <= sample.labels.items() or "lane" not in sample.labels
    ]
    return LoadSnapshot(
        queued=any(sample.value > 0 for sample in samples if sample.name in _QUEUE_GAUGES),
        generating=any(sample.value > 0 for sample in samples if sample.name == _RUNNING_GAUGE),
        requests_served=sum(sample.value for sample in samples if sample.name in _REQUEST_COUNTERS),
    )


def _samples(text: str) -> list[Sample]:
    try:
        return [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    except Exception:  # The parser says of none what it raises.
        return []


def rest_seconds(users: UserLoad, took_seconds: float) -> float:
    """How long the worker rests after an errand; after one that was left for later, too, so that a queue of a moment
    does not cost the whole round."""
    if users == "wait":
        return MAX_REST_SECONDS
    return 0.0 if users == "none" else min(MAX_REST_SECONDS, REST_FACTOR * took_seconds)


@dataclass(frozen=True)
class RefreshRound:
    """One look at all that is popular."""

    started_at: int
    """Unix seconds."""
    outcomes: Mapping[str, JobOutcome]
    """By the errand's name."""

    def state(self, now: float) -> RoundState:
        """What is going on at `now` (Unix seconds)."""
        if self.in_progress(now):
            return "running"
        return "idle" if {"waiting", "paused"}.isdisjoint(self.outcomes.values()) else "paused"

    def count(self, outcome: JobOutcome) -> int:
        """How many errands have come to it."""
        return sum(found == outcome for found in self.outcomes.values())

    def in_progress(self, now: float) -> bool:
        """It is not through, and will be."""
        return "waiting" in self.outcomes.values() and now < self.started_at + ROUND_TIMEOUT_SECONDS
