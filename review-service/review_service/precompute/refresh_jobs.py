"""Refresh jobs, users' load and the status of a round. Pure."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Literal
from urllib.parse import quote

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

JobOutcome = Literal["waiting", "current", "computed", "paused", "failed"]
"""Outcome of a refresh job. current: the response was cached and up to date. paused: the job was skipped, because
requests of users were queued."""
RoundState = Literal["none", "running", "paused", "idle"]
UserLoad = Literal["none", "served", "wait"]
"""none: no requests of users. served: there are requests, and none is queued. wait: requests of users are queued."""

ROUND_TIMEOUT_SECONDS = 900
"""Jobs that are not done by then are dropped; the next round has them again."""

_RESTAURANT_RESOURCES = ("sentiment", "summary", "strengths")
REST_FACTOR = 24
"""While there are users, the worker rests after each job for this many times the job's duration. So few of their
requests coincide with a job that their p95 latency hardly changes."""
MAX_REST_SECONDS = 2.0
"""Upper limit of the rest. A long job mostly waits for the LLM, which serves users first anyway."""

_INTERACTIVE_LABELS = {"lane": "interactive"}
_QUEUE_GAUGES = ("vllm:num_requests_waiting", "onecard_queue_tokens")
"""Gauges that are above 0 while requests are queued. Those of the encoders have the label `lane`."""
_RUNNING_GAUGE = "vllm:num_requests_running"
"""The LLM's running requests. Metrics are read between jobs, so they are all users'."""
_REQUEST_COUNTERS = ("onecard_queue_seconds_count", "onecard_review_requests_total")
"""Counters of requests by lane: those that the encoders computed, and all requests to the review service."""


@dataclass(frozen=True)
class RefreshJob:
    """A request to the review service whose response should be in the cache."""

    path: str
    query: str | None = None
    """Canonical JSON of a search, sent as the body of a POST; None for a GET."""

    @property
    def name(self) -> str:
        """Short name without text of a user: a hash of the request."""
        return blake2b(f"{self.path} {self.query}".encode(), digest_size=8).hexdigest()

    def as_json(self) -> dict[str, str | None]:
        """The fields as a task's message has them; `RefreshJob(**message)` restores the job."""
        return asdict(self)


def refresh_jobs(restaurants: Iterable[str], queries: Iterable[str]) -> list[RefreshJob]:
    """List the jobs of a round.

    Args:
        restaurants: Ids of popular restaurants.
        queries: Canonical JSON of popular searches.

    Returns:
        A job for each resource of each restaurant, then one for each search.
    """
    folders = [f"/v1/restaurants/{quote(restaurant, safe='')}" for restaurant in restaurants]
    paths = [f"{folder}/{resource}" for folder in folders for resource in _RESTAURANT_RESOURCES]
    return [*map(RefreshJob, paths), *(RefreshJob("/v1/reviews/search", query) for query in queries)]


def canonical_json(search: Mapping[str, object]) -> str:
    """Write a search as JSON so that equal searches give equal strings.

    Args:
        search: Fields of the search; None means that a field is not set.

    Returns:
        JSON with sorted keys, without the fields that are not set.
    """
    fields = {name: value for name, value in search.items() if value is not None}
    return json.dumps(fields, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True)
class LoadSnapshot:
    """Users' requests according to the services' metrics, read between two jobs."""

    queued: bool
    """Whether requests of users are queued for a model."""
    generating: bool
    """Whether the LLM generates for users."""
    requests_served: float
    """Total of users' requests that the encoders and the review service have counted so far."""


def parse_load(metrics: Sequence[str]) -> LoadSnapshot:
    """Compute users' load from the services' metrics.

    Args:
        metrics: Bodies of the services' `/metrics` in Prometheus's text format. What cannot be parsed counts as empty.

    Returns:
        The load over all services.
    """
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
    except Exception:  # The parser does not document what it raises.
        return []


def rest_seconds(users: UserLoad, duration_seconds: float) -> float:
    """Decide how long the worker rests after a job.

    Args:
        users: Load of users before the job. At `wait` the job was skipped, and the worker still rests, so that a short
            queue does not pause all jobs of the round.
        duration_seconds: Duration of the job.

    Returns:
        Seconds to rest; 0 without users.
    """
    if users == "wait":
        return MAX_REST_SECONDS
    return 0.0 if users == "none" else min(MAX_REST_SECONDS, REST_FACTOR * duration_seconds)


@dataclass(frozen=True)
class RefreshRound:
    """A round of precomputing and the outcomes of its jobs."""

    started_at: int
    """Unix time in seconds."""
    outcomes: Mapping[str, JobOutcome]
    """By the job's name."""
    sent: bool = True
    """Whether all its jobs were put on the queue. Otherwise the next round need not wait for it."""

    def state(self, now: float) -> RoundState:
        """Summarise the round.

        Args:
            now: Unix time in seconds.

        Returns:
            `running` while it is in progress; then `paused` if a job was skipped or not reached, else `idle`.
        """
        if self.in_progress(now):
            return "running"
        return "idle" if {"waiting", "paused"}.isdisjoint(self.outcomes.values()) else "paused"

    def count(self, outcome: JobOutcome) -> int:
        """Number of jobs with this outcome."""
        return sum(value == outcome for value in self.outcomes.values())

    def in_progress(self, now: float) -> bool:
        """Whether jobs are waiting and the round's timeout has not passed; `now` is the Unix time in seconds."""
        return "waiting" in self.outcomes.values() and now < self.started_at + ROUND_TIMEOUT_SECONDS
