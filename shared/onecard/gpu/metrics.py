"""Metrics of planned and measured GPU memory, and of the use of the whole GPU. torch is imported lazily."""

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
    """Bytes that a process holds on the GPU; None where they cannot be measured."""

    current_bytes: int | None = None
    peak_bytes: int | None = None
    """Highest value since the process started."""


class MemoryCollector(Collector):
    """Gauges of one process, measured at each scrape. A value that cannot be measured is left out."""

    def __init__(self, model_kind: ModelKind, planned_bytes: int, measure: Callable[[], MemoryUsage]) -> None:
        """Describe the process.

        Args:
            model_kind: value of the label `part`.
            planned_bytes: its share in the memory plan.
            measure: called at each scrape.
        """
        self._model_kind = model_kind
        self._planned_bytes = planned_bytes
        self._measure = measure

    @override
    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The interface of prometheus_client."""
        usage = self._measure()
        yield from self._gauge("planned", "Share of the GPU memory in the memory plan.", self._planned_bytes)
        yield from self._gauge("measured", "Held on the GPU: torch's reserve, or all of vLLM's.", usage.current_bytes)
        yield from self._gauge("measured_max", "Most held on the GPU since the start.", usage.peak_bytes)

    def _gauge(self, name: str, help_text: str, value: int | None) -> Iterator[GaugeMetricFamily]:
        if value is not None:
            gauge = GaugeMetricFamily(f"onecard_gpu_memory_{name}_bytes", help_text, labels=["part"])
            gauge.add_metric([self._model_kind], value)
            yield gauge


class GpuCollector(Collector):
    """Gauges of the whole GPU, exported by one of the processes that share it."""

    def __init__(self, measure: Callable[[], GpuUsage | None]) -> None:
        """Set the source.

        Args:
            measure: called at each scrape; None from it exports nothing.
        """
        self._measure = measure

    @override
    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The interface of prometheus_client."""
        if usage := self._measure():
            busy_help = "Share of the driver's last sample period in which the GPU was computing."
            yield GaugeMetricFamily("onecard_gpu_busy_ratio", busy_help, usage.busy_ratio)
            used_help = "Held on the GPU by all processes."
            yield GaugeMetricFamily("onecard_gpu_card_used_bytes", used_help, usage.used_bytes)
            yield GaugeMetricFamily("onecard_gpu_card_total_bytes", "Memory of the GPU.", usage.total_bytes)


def memory_metrics(registry: CollectorRegistry, reservation: MemoryReservation, device: Device) -> None:
    """Add the gauges of a torch process to a registry; on the CPU there are none.

    Args:
        registry: the app's.
        reservation: the process's share of the GPU.
        device: where torch allocates.
    """
    if reservation.planned_bytes is None:
        return

    def measure() -> MemoryUsage:
        import torch

        return MemoryUsage(torch.cuda.memory_reserved(device.name), torch.cuda.max_memory_reserved(device.name))

    registry.register(MemoryCollector(reservation.model_kind, reservation.planned_bytes, measure))
