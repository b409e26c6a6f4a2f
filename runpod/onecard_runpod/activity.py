"""Decides from metrics when a pod has to stop. Pure: time and metrics are arguments."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from prometheus_client.parser import text_string_to_metric_families

_REQUESTS = "onecard_client_requests_total"

StopReason = Literal["idle", "not ready"]


@dataclass(frozen=True)
class ActivitySample:
    """Clients' requests at one service (`onecard.client_traffic` says which are)."""

    served: float = 0.0
    """Requests since the service started that it has done."""
    other: float = 0.0
    """All others since then: failed, refused, or not answered to the end, because their client left before."""
    running: float = 0.0
    """Requests in progress."""


@dataclass(frozen=True)
class PodState:
    """What the watchdog knows of the pod. Times are in seconds of the caller's clock."""

    working_at: float
    """When it last was ready or did what a client asked for; before that, when it was started."""
    active_at: float | None = None
    """When a client last asked for something; before that, when it was first ready. None: it has not been ready yet."""
    samples: Mapping[str, ActivitySample] = field(default_factory=dict)
    """By service, when it last answered."""


def parse_activity(text: str) -> ActivitySample:
    """Read clients' requests from the metrics of one service.

    Args:
        text: metrics in Prometheus' text format.

    Returns:
        The counts; 0 for what is not there.

    Raises:
        ValueError: it is not in that format.
    """
    values = {
        (sample.name, sample.labels.get("outcome")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    return ActivitySample(
        served=values.get((_REQUESTS, "served"), 0.0),
        other=sum(value for (name, outcome), value in values.items() if name == _REQUESTS and outcome != "served"),
        running=values.get(("onecard_client_requests_running", None), 0.0),
    )


def next_state(previous: PodState, samples: Mapping[str, ActivitySample], now: float, *, ready: bool) -> PodState:
    """Compute the state after another poll.

    Args:
        previous: the state after the last poll.
        samples: activity by service, of those that answer. One that does not answer counts as idle.
        now: time of the poll in seconds, of any monotonic clock.
        ready: whether all services are ready.

    Returns:
        The new state.
    """
    pairs = [(sample, previous.samples.get(name, ActivitySample())) for name, sample in samples.items()]
    served = any(_grown(new.served, old.served) for new, old in pairs)
    active = served or any(new.running or _grown(new.other, old.other) for new, old in pairs)
    began = ready and previous.active_at is None
    return PodState(
        working_at=now if ready or served else previous.working_at,
        active_at=now if began or (active and previous.active_at is not None) else previous.active_at,
        samples={**previous.samples, **samples},
    )


def _grown(count: float, previous: float) -> bool:
    """Whether a counter shows new requests. A restarted service counts from zero again."""
    return count > 0 if count < previous else count > previous


def time_left(
    state: PodState, now: float, *, idle_seconds: float | None, unready_seconds: float
) -> tuple[float, StopReason]:
    """Compute how long the pod may go on if nothing happens.

    Args:
        state: the state after the last poll.
        now: time in seconds, of the same clock.
        idle_seconds: how long clients may ask for nothing; None: for ever.
        unready_seconds: how long it may neither be ready nor do what a client asks for.

    Returns:
        Seconds until it has to stop, 0 or less if it is time, and why it will.
    """
    unready: tuple[float, StopReason] = (state.working_at + unready_seconds - now, "not ready")
    if idle_seconds is None or state.active_at is None:
        return unready
    return min(unready, (state.active_at + idle_seconds - now, "idle"))
