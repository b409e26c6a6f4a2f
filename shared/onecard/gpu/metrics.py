"""Planned against measured memory of a process, and the use of the whole card, as metrics. torch is imported lazily."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector
from typing_extensions import override

from onecard.gpu.device import Device
from onecard.gpu.nvml import GpuUsage
from onecard.gpu.reservation import MemoryReservation
from onecard.models.folders import ModelKind


@dataclass(frozen=True)
class MemoryUsage:
    """Bytes that a process holds on the card; None where nobody can say."""

    current_bytes: int | None = None
    peak_bytes: int | None = None
    """Since the process started."""


class MemoryCollector(Collector):
    """Gauges that are asked for when Prometheus comes. What cannot be measured is left out."""

    def __init__(self, part: ModelKind, planned_bytes: int, measure: Callable[[], MemoryUsage]) -> None:
        self._model_kind = part
        self._planned_bytes = planned_bytes
        self._measure = measure

    @override
    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The interface of prometheus_client."""
        held = self._measure()
        yield from self._gauge("planned", "Share of the card in the memory plan.", self._planned_bytes)
        yield from self._gauge("measured", "Held on the card: torch's reserve, or vLLM's in all.", held.current_bytes)
        yield from self._gauge("measured_max", "Most held on the card since the start.", held.peak_bytes)

    def _gauge(self, name: str, meaning: str, value: int | None) -> Iterator[GaugeMetricFamily]:
        if value is not None:
            gauge = GaugeMetricFamily(f"onecard_gpu_memory_{name}_bytes", meaning, labels=["part"])
            gauge.add_metric([self._model_kind], value)
            yield gauge


class GpuCollector(Collector):
    """Gauges of the whole card. One process of those on it shows them."""

    def __init__(self, measure: Callable[[], GpuUsage | None]) -> None:
        self._measure = measure

    @override
    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The interface of prometheus_client."""
        if use := self._measure():
            busy = "Share of the last moments in which the card computed something."
            yield GaugeMetricFamily("onecard_gpu_busy_ratio", busy, use.busy_ratio)
            held = "Held on the card by all processes."
            yield GaugeMetricFamily("onecard_gpu_card_used_bytes", held, use.used_bytes)
            yield GaugeMetricFamily("onecard_gpu_card_total_bytes", "Memory of the card.", use.total_bytes)


def memory_metrics(registry: CollectorRegistry, claim: MemoryReservation, device: Device) -> None:
    """Add the gauges of a torch process to `registry`; on the CPU there are none."""
    if claim.planned_bytes is None:
        return

    def measure() -> MemoryUsage:
        import torch

        return MemoryUsage(torch.cuda.memory_reserved(device.name), torch.cuda.max_memory_reserved(device.name))

    registry.register(MemoryCollector(claim.model_kind, claim.planned_bytes, measure))
