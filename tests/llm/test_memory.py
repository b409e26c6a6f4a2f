"""Planned against measured memory of vLLM's processes."""

from collections.abc import Collection

import pytest
from prometheus_client import CollectorRegistry

from llm_service.launch import PLANNED_BYTES
from llm_service.on_vllm.memory import memory_metrics
from onecard.gpu.nvml import GpuUsage, NvmlGpu

PLANNED, MEASURED = "onecard_gpu_memory_planned_bytes", "onecard_gpu_memory_measured_bytes"


class FakeCard:
    """Says 700 bytes of whatever processes are asked about."""

    def used_bytes(self, processes: Collection[int]) -> int:
        """Of at least the process that asks."""
        assert processes
        return 700

    def usage(self) -> GpuUsage:
        """Of all processes."""
        return GpuUsage(busy_ratio=0.5, used_bytes=800, total_bytes=2000)


@pytest.mark.parametrize(("card", "measured"), [(FakeCard(), 700), (None, None)])
def test_planned_beside_what_the_driver_says(
    monkeypatch: pytest.MonkeyPatch, card: FakeCard | None, measured: int | None
) -> None:
    """Without a driver that can say, only the plan is shown. The card is the one that the launcher has chosen."""
    asked: list[str] = []

    def open_card(name: str) -> FakeCard | None:
        asked.append(name)
        return card

    monkeypatch.setattr(NvmlGpu, "open", open_card)
    registry = CollectorRegistry()
    memory_metrics(registry, {PLANNED_BYTES: "1000", "CUDA_VISIBLE_DEVICES": "6"})
    assert asked == ["6"]
    assert registry.get_sample_value(PLANNED, {"part": "llm"}) == 1000
    assert registry.get_sample_value(MEASURED, {"part": "llm"}) == measured
    assert registry.get_sample_value("onecard_gpu_busy_ratio") == (0.5 if card else None)
    assert registry.get_sample_value("onecard_gpu_card_used_bytes") == (800 if card else None)


def test_no_gauge_without_a_card() -> None:
    """On the CPU nothing was planned."""
    registry = CollectorRegistry()
    memory_metrics(registry, {})
    assert registry.get_sample_value(PLANNED, {"part": "llm"}) is None
