"""How long and how many: the limits that all connections of a server share, and what they count."""

from dataclasses import dataclass, field
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from onecard.settings import ServiceSettings

MAX_REFUSALS_AT_ONCE = 100
"""Connections beyond the limit that are being told so at a time."""


@dataclass(eq=False)
class ConnectionLimits(Collector):
    """One for each server. As a collector it shows what is open, and what was turned away."""

    header_timeout_seconds: float
    """For a request's line and headers."""
    send_timeout_seconds: float
    """That a client may leave unread what it is sent."""
    max_connections: int
    """Open at a time; more are answered with 503."""
    connections: set[Any] = field(default_factory=set)
    """uvicorn's own, once one has been made."""
    refused: int = 0
    """Connections beyond the limit."""
    refusing: int = 0
    """Of them, those that are being told so."""

    @classmethod
    def from_settings(cls, settings: ServiceSettings, *, files: int) -> "ConnectionLimits":
        """Those of `settings`, in a process that may have so many files open (-1: any number). A connection that is
        relayed is two."""
        most = settings.max_connections
        return cls(
            settings.header_timeout_seconds, settings.send_timeout_seconds, most if files < 0 else min(most, files // 2)
        )

    def count_refusal(self) -> bool:
        """Count a connection for which there is no room. Returns whether to tell it so; a flood is not told."""
        self.refused += 1
        self.refusing += (tell := self.refusing < MAX_REFUSALS_AT_ONCE)
        return tell

    def collect(self) -> list[Metric]:
        """prometheus-client's."""
        opened = GaugeMetricFamily("onecard_http_connections", "Connections of clients that are open.")
        opened.add_metric([], len(self.connections))
        refused = CounterMetricFamily("onecard_http_connections_refused", "Connections beyond MAX_CONNECTIONS.")
        refused.add_metric([], self.refused)
        return [opened, refused]
