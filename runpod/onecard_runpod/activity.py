"""Computes from metrics how long the services have been idle. Pure: time and metrics are arguments."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

_MONITORING_ROUTES = ("/", "/metrics", "/v1/models", "/openapi.json", "unmatched")
"""Routes that monitoring and internet scanners call; requests to them, and to all of `/health`, do not count."""
_UNAUTHENTICATED_STATUSES = ("401", "404", "405")
"""Statuses of clients without a key and of scanners; these requests do not count."""


@dataclass(frozen=True)
class ActivitySample:
    """Requests of one service, from its metrics."""

    completed: float = 0.0
    """Finished requests since the service started."""
    running: float = 0.0
    """Requests and tasks in progress."""


@dataclass(frozen=True)
class IdleState:
    """Time of the last activity, and the counters at that poll."""

    since: float
    """Time of the last activity, in seconds of the caller's clock."""
    completed: Mapping[str, float] = field(default_factory=dict)
    """Finished requests by service, when it last answered."""


def parse_activity(text: str) -> ActivitySample:
    """Read the activity of one service from its metrics.

    In progress are all gauges whose names end in `_running` (vLLM's, our engine's, a worker's tasks), and the gateway's
    `onecard_upstream_in_flight`.

    Args:
        text: metrics in Prometheus' text format.

    Returns:
        The counts. Requests of monitoring and of clients without a key are left out.
    """
    completed = running = 0.0
    for family in text_string_to_metric_families(text):
        if family.name == "onecard_http_requests":
            completed += sum(sample.value for sample in family.samples if _is_traffic(sample.name, sample.labels))
        elif family.name == "vllm:request_success":
            completed += sum(sample.value for sample in family.samples if sample.name.endswith("_total"))
        elif family.name.endswith("_running") or family.name == "onecard_upstream_in_flight":
            running += sum(sample.value for sample in family.samples)
    return ActivitySample(completed, running)


def _is_traffic(name: str, labels: dict[str, str]) -> bool:
    if not name.endswith("_total") or labels["status"] in _UNAUTHENTICATED_STATUSES:
        return False
    return labels["route"] not in _MONITORING_ROUTES and not labels["route"].startswith("/health")


def next_state(previous: IdleState, samples: Mapping[str, ActivitySample], now: float) -> IdleState:
    """Compute the idle state after another poll.

    Args:
        previous: the state after the last poll.
        samples: activity by service, of those that answer. A service that does not answer counts as idle.
        now: time of the poll in seconds, of any monotonic clock.

    Returns:
        The new state; its `since` is `now` if a service has requests in progress or has finished some since.
    """
    active = any(
        sample.running or _new_requests(sample.completed, previous.completed.get(name, 0.0))
        for name, sample in samples.items()
    )
    completed = {**previous.completed, **{name: sample.completed for name, sample in samples.items()}}
    return IdleState(now if active else previous.since, completed)


def _new_requests(completed: float, previous: float) -> float:
    """Requests since the last poll. A restarted service counts from zero again."""
    return completed if completed < previous else completed - previous
