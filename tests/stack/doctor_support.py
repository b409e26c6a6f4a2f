"""Fakes for the doctor: NVML's Python package, with a machine's GPUs behind it."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

GIB = 1024**3


@dataclass
class FakeGpu:
    """One GPU, as NVML would describe it."""

    name: str = "NVIDIA RTX A5000"
    uuid: str = "GPU-aaaa"
    total: int = 24 * GIB
    free: int = 23 * GIB
    mode: int = 0
    mig: tuple[int, int] | None = None
    slices: tuple[str, ...] = ()
    running: list[Any] = field(default_factory=list)


class FakeNvml:
    """The module `pynvml`. Handles are the GPUs themselves; a slice of one is its UUID."""

    nvmlMemory_v2 = 2

    class NVMLError(Exception):
        """As NVML raises it."""

    def __init__(self, *gpus: FakeGpu, version: str = "580.95.05", cuda: int = 13000, broken: str = "") -> None:
        self.gpus, self.version, self.cuda, self.broken = gpus, version, cuda, broken

    def nvmlInit(self) -> None:
        """Fails as a driver does that was updated while it was loaded, for one."""
        if self.broken:
            raise self.NVMLError(self.broken)

    def nvmlSystemGetDriverVersion(self) -> str:
        return self.version

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return self.cuda

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:
        return self.gpus[index]

    def nvmlDeviceGetUUID(self, handle: Any) -> str:
        return handle if isinstance(handle, str) else handle.uuid

    def nvmlDeviceGetName(self, handle: FakeGpu) -> str:
        return handle.name

    def nvmlDeviceGetMemoryInfo(self, handle: Any, version: int | None = None) -> Any:
        if isinstance(handle, str):
            return SimpleNamespace(total=10 * GIB, free=10 * GIB)
        return SimpleNamespace(total=handle.total, free=handle.free, reserved=0)

    def nvmlDeviceGetComputeMode(self, handle: FakeGpu) -> int:
        return handle.mode

    def nvmlDeviceGetMigMode(self, handle: FakeGpu) -> tuple[int, int]:
        """A card for players has none."""
        if handle.mig is None:
            raise self.NVMLError("Not Supported")
        return handle.mig

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: FakeGpu) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: FakeGpu, index: int) -> str:
        if index >= len(handle.slices):
            raise self.NVMLError("Not Found")
        return handle.slices[index]

    def nvmlDeviceGetComputeRunningProcesses(self, handle: FakeGpu) -> list[Any]:
        return handle.running
