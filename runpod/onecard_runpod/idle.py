"""Since when does nobody want anything? Pure: what was seen and when go in, how long it has been quiet comes out."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

_MONITORING_ROUTES = ("/", "/metrics", "/v1/models", "/openapi.json", "unmatched")
"""Routes of monitors, and of whoever tries what is open on the internet; beside them, all of `/health`."""
_UNAUTHENTICATED_STATUSES = ("401", "404", "405")
"""Statuses of those who have no key or do not know the routes."""


@dataclass(frozen=True)
class ActivitySample:
    """What a part's own metrics say."""

    completed: float = 0.0
    """Requests since the part started."""
    running: float = 0.0
    """Requests and tasks that it works on now."""


@dataclass(frozen=True)
class IdleState:
    """Since when nothing was wanted."""

    since: float
    completed: Mapping[str, float] = field(default_factory=dict)
    """What each part had answered when it was last seen."""


def parse_activity(text: str) -> ActivitySample:
    """The traffic in one part's metrics (Prometheus' text).

    Counted as worked on is every gauge whose name ends in `_running` (vLLM's, our engine's, a worker's tasks) and what
    the gateway waits for; so a worker is heard by having such a gauge.
    """
    answered = running = 0.0
    for family in text_string_to_metric_families(text):
        if family.name == "onecard_http_requests":
            answered += sum(sample.value for sample in family.samples if _is_traffic(sample.name, sample.labels))
        elif family.name == "vllm:request_success":
            answered += sum(sample.value for sample in family.samples if sample.name.endswith("_total"))
        elif family.name.endswith("_running") or family.name == "onecard_upstream_in_flight":
            running += sum(sample.value for sample in family.samples)
    return ActivitySample(answered, running)


def _is_traffic(name: str, labels: dict[str, str]) -> bool:
    if not name.endswith("_total") or labels["status"] in _UNAUTHENTICATED_STATUSES:
        return False
    return labels["route"] not in _MONITORING_ROUTES and not labels["route"].startswith("/health")


def next_state(before: IdleState, looks: Mapping[str, ActivitySample], now: float) -> IdleState:
    """`before`, and another look at those parts that answer, by name; one that is away wants nothing.

    Args:
        now: seconds, of any clock that only goes forward.
    """
    wanted = any(
        look.running or _new_requests(look.completed, before.completed.get(name, 0.0)) for name, look in looks.items()
    )
    answered = {**before.completed, **{name: look.completed for name, look in looks.items()}}
    return IdleState(now if wanted else before.since, answered)


def _new_requests(answered: float, before: float) -> float:
    """Requests since the last look; a part that has started anew counts from zero."""
    return answered if answered < before else answered - before
