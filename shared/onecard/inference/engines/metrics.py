"""Metrics of an encoder's engine: which one serves, and what its process holds in memory."""

from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector
from typing_extensions import override

SMAPS = Path("/proc/self/smaps_rollup")


class ProcessMemory(Collector):
    """What this process holds, measured at each scrape; nothing where Linux does not say."""

    def __init__(self, smaps: Path = SMAPS) -> None:
        """Set the source.

        Args:
            smaps: Linux's sums of this process's memory; tests pass another file.
        """
        self._smaps = smaps

    @override
    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The interface of prometheus_client."""
        try:
            lines = self._smaps.read_text().splitlines()
        except OSError:
            return
        kilobytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines[1:])}
        gauge = GaugeMetricFamily(
            "onecard_encoder_memory_bytes",
            "Memory of this process: own is nobody else's; proportional adds its part of what others map, too.",
            labels=["share"],
        )
        gauge.add_metric(["own"], 1024 * (kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]))
        gauge.add_metric(["proportional"], 1024 * kilobytes["Pss"])
        yield gauge


def engine_metrics(registry: CollectorRegistry, library: str, precision: str) -> None:
    """Export which engine serves, and the process's memory.

    Args:
        registry: the app's.
        library: that runs the model, with its version.
        precision: number format of the calculation.
    """
    info = Gauge("onecard_encoder_engine", "1 for the engine that serves.", ["engine", "precision"], registry=registry)
    info.labels(library, precision).set(1)
    registry.register(ProcessMemory())
