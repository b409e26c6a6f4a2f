"""Planned against measured memory of vLLM's processes, and the use of the whole card."""

import os
from collections.abc import Mapping

from prometheus_client import CollectorRegistry

from llm_service.launch import PLANNED_BYTES
from onecard.gpu.metrics import GpuCollector, MemoryCollector, MemoryUsage
from onecard.gpu.nvml import NvmlGpu, process_tree, visible_gpu


def memory_metrics(registry: CollectorRegistry, environment: Mapping[str, str] = os.environ) -> None:
    """Add the gauges to `registry`, if the launcher planned for a card.

    The engine has a process of its own, below this one, so all of them are counted.
    """
    planned = environment.get(PLANNED_BYTES)
    if planned is None:
        return
    card = NvmlGpu.open(visible_gpu(0, environment))

    def measure() -> MemoryUsage:
        return MemoryUsage(current_bytes=card.used_bytes(process_tree(os.getpid())) if card else None)

    registry.register(MemoryCollector("llm", int(planned), measure))
    if card:
        registry.register(GpuCollector(card.usage))
