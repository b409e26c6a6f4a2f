"""Facts about a machine, as the checks need them. Data only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class GpuProcess:
    """A process that computes on a GPU."""

    pid: int
    name: str
    """Empty if this user may not see it, as in containers."""
    used_bytes: int | None
    """None where the driver does not say, as under WSL."""
    ours: bool = False
    """Whether it belongs to the stack that runs here."""


@dataclass(frozen=True)
class MigSlice:
    """A part of a GPU that NVIDIA's MIG has cut off."""

    uuid: str
    total_bytes: int | None


@dataclass(frozen=True)
class Gpu:
    """A GPU, as the driver describes it."""

    index: int
    uuid: str
    name: str
    total_bytes: int | None = None
    """Without the driver's reserve, as CUDA counts it."""
    free_bytes: int | None = None
    compute_mode: str = "default"
    """`default`, `exclusive` (one process only) or `prohibited`."""
    mig: tuple[MigSlice, ...] | None = None
    """Its slices; None if MIG is off."""
    processes: tuple[GpuProcess, ...] = ()


@dataclass(frozen=True)
class Driver:
    """NVIDIA's driver, through NVML."""

    error: str | None = None
    """Why it does not answer; None if it does."""
    version: str = ""
    cuda: tuple[int, int] | None = None
    """Newest CUDA version that it runs."""
    gpus: tuple[Gpu, ...] = ()


@dataclass(frozen=True)
class Cuda:
    """What happened when torch computed something on the GPU, in a process of its own."""

    torch: str = ""
    """Its version; empty if it cannot be imported."""
    built_for: str | None = None
    """CUDA version of the build; None for a CPU build."""
    error: str | None = None
    """Why it could not compute; None if it could."""
    in_use: bool = False
    """Not tried, because the stack that runs here computes there: a card that it fills has no room for a trial."""


@dataclass(frozen=True)
class GpuRequest:
    """Which GPU the settings and the environment ask for."""

    wanted: str | None
    """Why there must be a GPU (`onecard.gpu.device.why_gpu_is_wanted`); None if the CPU will do."""
    use_gpu: bool = True
    device: int = 0
    """`GPU_DEVICE`."""
    visible: str | None = None
    """`CUDA_VISIBLE_DEVICES`; None if it is not set. Empty hides every GPU."""
    order: str | None = None
    """`CUDA_DEVICE_ORDER`."""


@dataclass(frozen=True)
class Xid:
    """An error that the driver wrote to the kernel's log."""

    code: int
    hours_ago: float


@dataclass(frozen=True)
class Toolchain:
    """What compiles kernels when the LLM starts on a GPU."""

    vllm: bool
    """Whether vLLM's build for CUDA serves."""
    compiler: str | None = None
    """Path of `$CC`, clang or gcc."""
    python_headers: bool = False
    """Whether `Python.h` is there."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Installed version by distribution, of those in cuda_rules.toml."""
    flashinfer_sampler: bool = False
    """Whether the environment asks for FlashInfer's sampler, which has to be compiled."""
    nvcc: tuple[int, int] | None = None
    """CUDA version of the nvcc that FlashInfer would find; None if there is none."""


@dataclass(frozen=True)
class Port:
    """A port that a process of the stack needs."""

    process: str
    number: int
    variable: str
    error: str | None = None
    """Why it cannot be bound; None if it can, or if the stack that runs here has it."""
    listener: str = ""
    """Who listens there, as far as this user may see it."""
    in_use: bool = False


@dataclass(frozen=True)
class Disk:
    """The place of a folder."""

    folder: Path
    free_mb: float = 0.0
    error: str | None = None
    """Why nothing can be written there; None if it can."""


@dataclass(frozen=True)
class Clock:
    """This machine's time, in Unix seconds."""

    now: float
    installed: float
    """When Onecard was installed: it cannot be earlier than that."""
    synchronised: bool | None
    """Whether the kernel says that something keeps it right; None if it does not say."""
