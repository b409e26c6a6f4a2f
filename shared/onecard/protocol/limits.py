"""Limits shared by all connections of a server, and metrics of connections."""

from dataclasses import dataclass, field
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from onecard.settings import ServiceSettings

MAX_REFUSALS_AT_ONCE = 100
"""Most connections over the limit that are being answered with 503 at a time."""


@dataclass(eq=False)
class ConnectionLimits(Collector):
    """Limits of one server. As a Prometheus collector it exports open and refused connections."""

    header_timeout_seconds: float
    """Longest wait for a request's line and headers."""
    send_timeout_seconds: float
    """How long a client may stop reading its response."""
    max_connections: int
    """Most open connections; further ones get a 503."""
    connections: set[Any] = field(default_factory=set)
    """uvicorn's own set, once a connection has been made."""
    refused: int = 0
    """Connections over the limit since the start."""
    refusing: int = 0
    """Connections over the limit that are being answered with 503 now."""

    @classmethod
    def from_settings(cls, settings: ServiceSettings, *, max_open_files: int) -> "ConnectionLimits":
        """Take the limits from settings and from the limit of open files.

        Args:
            settings: of the service.
            max_open_files: of the process; -1 for no limit. A relayed connection needs two.

        Returns:
            The limits.
        """
        max_connections = settings.max_connections
        return cls(
            settings.header_timeout_seconds,
            settings.send_timeout_seconds,
            max_connections if max_open_files < 0 else min(max_connections, max_open_files // 2),
        )

    def count_refusal(self) -> bool:
        """Count a connection over the limit. Returns whether to answer it with 503; in a flood it is only closed."""
        self.refused += 1
        self.refusing += (answer := self.refusing < MAX_REFUSALS_AT_ONCE)
        return answer

    def collect(self) -> list[Metric]:
        """The interface of prometheus_client."""
        opened = GaugeMetricFamily("onecard_http_connections", "Connections of clients that are open.")
        opened.add_metric([], len(self.connections))
        refused = CounterMetricFamily("onecard_http_connections_refused", "Connections beyond MAX_CONNECTIONS.")
        refused.add_metric([], self.refused)
        return [opened, refused]
