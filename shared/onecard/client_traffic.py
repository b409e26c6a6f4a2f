"""Which requests are clients' traffic. Pure, except for the metrics that it keeps.

Everybody who has to know whether anybody uses the system (the idle stop of a pod above all) reads these two metrics, so
that one rule holds everywhere: a request of monitoring, of a stranger without a key, or of Onecard itself is none.
"""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

INTERNAL_HEADER = "x-onecard-internal"
"""Header of requests that Onecard sends to itself: precomputing, and what one service asks another in the
course of a request that is counted where it came in. Its value says who asks; it grants nothing."""

_MONITORING_PATHS = frozenset({"/", "/metrics", "/v1/models", "/openapi.json"})
_INTERNAL_HEADER = INTERNAL_HEADER.encode()
_UNCOUNTED_STATUSES = frozenset({404, 405})
"""Statuses of scanners that guess paths. Who has no key is refused before anything is counted."""


def is_client_request(path: str, headers: Mapping[bytes, bytes]) -> bool:
    """Decide whether a request is of a client.

    Args:
        path: its path.
        headers: its headers, names in lower case.

    Returns:
        False for monitoring and for requests with `INTERNAL_HEADER`.
    """
    monitoring = path in _MONITORING_PATHS or path.startswith("/health")
    return not monitoring and _INTERNAL_HEADER not in headers


class ClientTraffic:
    """Counts clients' requests."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the metrics.

        Args:
            registry: the app's.
        """
        requests = Counter(
            "onecard_client_requests_total",
            "Requests of clients that have ended, monitoring and Onecard's own left out.",
            ["outcome"],
            registry=registry,
        )
        self._served, self._refused = requests.labels("served"), requests.labels("refused")
        self._failed, self._unfinished = requests.labels("failed"), requests.labels("unfinished")
        self.running = Gauge("onecard_client_requests_running", "Requests of clients in progress.", registry=registry)

    def record(self, status: int, *, complete: bool) -> None:
        """Count a request of a client that has ended.

        Only a complete answer shows that something works: clients of a hung service leave, or are refused because too
        many wait, and a stream may have sent its status and nothing else.

        Args:
            status: the HTTP status sent: 500 and above is a failure, 400 and above a refusal.
            complete: whether the answer was sent to its end.
        """
        if status in _UNCOUNTED_STATUSES:
            return
        if status >= 500:
            self._failed.inc()
        elif not complete:
            self._unfinished.inc()
        else:
            (self._refused if status >= 400 else self._served).inc()
