"""Metrics of planned and used GPU memory of vLLM's processes, and of the GPU as a whole."""

import os
from collections.abc import Mapping

from prometheus_client import CollectorRegistry

from llm_service.launch import PLANNED_BYTES
from onecard.gpu.metrics import GpuCollector, MemoryCollector, MemoryUsage
from onecard.gpu.nvml import NvmlGpu, process_tree, visible_gpu


def memory_metrics(registry: CollectorRegistry, environment: Mapping[str, str] = os.environ) -> None:
    """Register the gauges, if the launcher planned GPU memory.

    The engine is a child process, so the memory of this process and of all its descendants is summed.

    Args:
        registry: Where to register the gauges.
        environment: Environment variables, with the planned size if the launcher set it.
    """
    planned = environment.get(PLANNED_BYTES)
    if planned is None:
        return
    gpu = NvmlGpu.open(visible_gpu(0, environment))

    def measure() -> MemoryUsage:
        return MemoryUsage(current_bytes=gpu.used_bytes(process_tree(os.getpid())) if gpu else None)

    registry.register(MemoryCollector("llm", int(planned), measure))
    if gpu:
        registry.register(GpuCollector(gpu.usage))
