"""What the driver reports about a GPU, without importing torch: through NVML, else through `nvidia-smi`."""

import importlib
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB = 1024**2
_SMI_TIMEOUT_SECONDS = 20
"""On an idle machine without persistence mode, the driver takes some seconds to load."""


def visible_gpu(gpu_device: int, environment: Mapping[str, str]) -> str:
    """The GPU that `GPU_DEVICE` selects among those that are visible to the process.

    Args:
        gpu_device: index among the visible ones.
        environment: may have `CUDA_VISIBLE_DEVICES`.

    Returns:
        An index or UUID for the driver.
    """
    visible = [gpu.strip() for gpu in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu.strip()]
    return visible[gpu_device] if gpu_device < len(visible) else str(gpu_device)


def gpu_total_bytes(gpu: str) -> int | None:
    """The GPU's total memory as CUDA reports it.

    Args:
        gpu: index or UUID, from `visible_gpu`.

    Returns:
        Bytes; None if neither NVML nor `nvidia-smi` reports them.
    """
    nvml = NvmlGpu.open(gpu)
    return (nvml.total_bytes() if nvml else None) or _query_smi(gpu)


@dataclass(frozen=True)
class GpuUsage:
    """Use of a GPU by all processes together, including those of other users."""

    busy_ratio: float
    """Share of the driver's last sample period in which a kernel was running, 0 to 1."""
    used_bytes: int
    total_bytes: int


class NvmlGpu:
    """A GPU through NVML, the driver's library. Its Python package, `nvidia-ml-py`, comes with vLLM for CUDA."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle

    @classmethod
    def open(cls, gpu: str, nvml: Any = None) -> "NvmlGpu | None":
        """Open a GPU. NVML stays loaded until the process ends.

        Args:
            gpu: index or UUID.
            nvml: the module `pynvml`; tests pass a fake.

        Returns:
            The GPU; None if there is no NVML or no such GPU.
        """
        try:
            nvml = nvml or importlib.import_module("pynvml")
        except ImportError:
            return None
        try:
            nvml.nvmlInit()
            get_handle = nvml.nvmlDeviceGetHandleByIndex if gpu.isdigit() else nvml.nvmlDeviceGetHandleByUUID
            return cls(nvml, get_handle(int(gpu) if gpu.isdigit() else gpu))
        except nvml.NVMLError:
            return None

    def total_bytes(self) -> int | None:
        """Total memory without the driver's reserve, as CUDA counts it; None if the driver does not report it."""
        try:
            memory = self._nvml.nvmlDeviceGetMemoryInfo(self._handle, version=self._nvml.nvmlMemory_v2)
            return int(memory.total - memory.reserved)
        except (self._nvml.NVMLError, AttributeError):
            pass  # An old driver, whose total excludes the reserve.
        try:
            return int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).total)
        except self._nvml.NVMLError:
            return None

    def compute_capability(self) -> tuple[int, int] | None:
        """Compute capability, major and minor; None if the driver does not report it."""
        try:
            major, minor = self._nvml.nvmlDeviceGetCudaComputeCapability(self._handle)
        except (self._nvml.NVMLError, AttributeError):
            return None
        return int(major), int(minor)

    def usage(self) -> GpuUsage | None:
        """Current use of the GPU; None if the driver does not report it."""
        try:
            memory = self._nvml.nvmlDeviceGetMemoryInfo(self._handle)
            percent = self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu
        except self._nvml.NVMLError:
            return None
        return GpuUsage(percent / 100, int(memory.used), int(memory.total))

    def used_bytes(self, processes: Collection[int]) -> int | None:
        """Memory that some processes hold on the GPU, including their CUDA contexts.

        Args:
            processes: process ids.

        Returns:
            Bytes; None if the driver lists none of them, as under WSL and in containers with their own process ids.
        """
        try:
            running = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        except self._nvml.NVMLError:
            return None
        sizes = [each.usedGpuMemory for each in running if each.pid in processes and each.usedGpuMemory is not None]
        return sum(sizes) if sizes else None


def _query_smi(gpu: str) -> int | None:
    for columns in ("memory.total,memory.reserved", "memory.total"):
        command = ["nvidia-smi", "-i", gpu, f"--query-gpu={columns}", "--format=csv,noheader,nounits"]
        try:
            completed = subprocess.run(command, capture_output=True, text=True, timeout=_SMI_TIMEOUT_SECONDS)  # noqa: S603 - no shell
        except (OSError, subprocess.TimeoutExpired):
            return None
        if completed.returncode == 0 and (size := parse_smi_memory(completed.stdout)):
            return size
    return None


def parse_smi_memory(line: str) -> int | None:
    """Parse a line of `nvidia-smi`'s CSV output.

    Args:
        line: the total memory and, if it was queried, the driver's reserve, in MiB.

    Returns:
        Total memory without the reserve, in bytes; None if the line has no number.
    """
    total, *reserved = (field.strip() for field in line.split(","))
    if not total.isdigit():
        return None
    return (int(total) - sum(int(field) for field in reserved if field.isdigit())) * MIB


def process_tree(process: int, proc: Path = Path("/proc")) -> set[int]:
    """Find a process and all its descendants.

    Args:
        process: its id.
        proc: Linux's folder of processes; tests pass another one.

    Returns:
        Process ids.
    """
    parents: dict[int, int] = {}
    for status in proc.glob("[0-9]*/stat"):
        try:
            # After the name, which is in brackets and may contain anything: state, parent, …
            parents[int(status.parent.name)] = int(status.read_text(errors="replace").rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue  # The process has just ended.
    found = {process}
    while new := {child for child, parent in parents.items() if parent in found} - found:
        found |= new
    return found
