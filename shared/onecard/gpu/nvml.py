"""What the driver says of a card, without importing torch: through NVML, else through `nvidia-smi`."""

import importlib
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB = 1024**2
_SMI_TIMEOUT_SECONDS = 20
"""The driver of an idle machine without persistence takes some seconds to come up."""


def visible_gpu(gpu_device: int, environment: Mapping[str, str]) -> str:
    """The card that `GPU_DEVICE` means, by index or UUID: it counts within those that are visible already."""
    visible = [card.strip() for card in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if card.strip()]
    return visible[gpu_device] if gpu_device < len(visible) else str(gpu_device)


def gpu_total_bytes(card: str) -> int | None:
    """The card's total memory as CUDA reports it, or None if nobody can say.

    Args:
        card: index or UUID, from `visible_gpu`.
    """
    nvml = NvmlGpu.open(card)
    return (nvml.total_bytes() if nvml else None) or _query_smi(card)


@dataclass(frozen=True)
class GpuUsage:
    """What all processes together, also those of others, do with a card."""

    busy_ratio: float
    """Share of the last moments in which something was computed, 0 to 1."""
    used_bytes: int
    total_bytes: int


class NvmlGpu:
    """A card through NVML, the library of the driver. Its Python package, `nvidia-ml-py`, comes with vLLM for CUDA."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle

    @classmethod
    def open(cls, card: str, nvml: Any = None) -> "NvmlGpu | None":
        """The card, or None where there is no NVML, or no such card. NVML stays open as long as the process."""
        try:
            nvml = nvml or importlib.import_module("pynvml")
        except ImportError:
            return None
        try:
            nvml.nvmlInit()
            by = nvml.nvmlDeviceGetHandleByIndex if card.isdigit() else nvml.nvmlDeviceGetHandleByUUID
            return cls(nvml, by(int(card) if card.isdigit() else card))
        except nvml.NVMLError:
            return None

    def total_bytes(self) -> int | None:
        """Total memory without what the driver reserves, which CUDA does not count either."""
        try:
            memory = self._nvml.nvmlDeviceGetMemoryInfo(self._handle, version=self._nvml.nvmlMemory_v2)
            return int(memory.total - memory.reserved)
        except (self._nvml.NVMLError, AttributeError):
            pass  # An old driver, whose total is without the reserve.
        try:
            return int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).total)
        except self._nvml.NVMLError:
            return None

    def usage(self) -> GpuUsage | None:
        """What happens on the card now; None where the driver does not say."""
        try:
            memory = self._nvml.nvmlDeviceGetMemoryInfo(self._handle)
            percent = self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu
        except self._nvml.NVMLError:
            return None
        return GpuUsage(percent / 100, int(memory.used), int(memory.total))

    def used_bytes(self, processes: Collection[int]) -> int | None:
        """What these processes hold on the card, their CUDA contexts included.

        None where the driver knows none of them: under WSL, and in containers whose process ids are not the host's.
        """
        try:
            running = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        except self._nvml.NVMLError:
            return None
        held = [one.usedGpuMemory for one in running if one.pid in processes and one.usedGpuMemory is not None]
        return sum(held) if held else None


def _query_smi(card: str) -> int | None:
    for columns in ("memory.total,memory.reserved", "memory.total"):
        command = ["nvidia-smi", "-i", card, f"--query-gpu={columns}", "--format=csv,noheader,nounits"]
        try:
            asked = subprocess.run(command, capture_output=True, text=True, timeout=_SMI_TIMEOUT_SECONDS)  # noqa: S603 - no shell
        except (OSError, subprocess.TimeoutExpired):
            return None
        if asked.returncode == 0 and (size := parse_smi_memory(asked.stdout)):
            return size
    return None


def parse_smi_memory(line: str) -> int | None:
    """Bytes, from `nvidia-smi`'s line of the card's total and, if asked for, its reserved memory in MiB."""
    total, *reserved = (field.strip() for field in line.split(","))
    if not total.isdigit():
        return None
    return (int(total) - sum(int(field) for field in reserved if field.isdigit())) * MIB


def process_tree(process: int, proc: Path = Path("/proc")) -> set[int]:
    """A process and all its descendants, by id."""
    parents: dict[int, int] = {}
    for status in proc.glob("[0-9]*/stat"):
        try:
            # Behind the name, which is in brackets and may hold anything: state, parent, …
            parents[int(status.parent.name)] = int(status.read_text(errors="replace").rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue  # It has just ended.
    found = {process}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found
