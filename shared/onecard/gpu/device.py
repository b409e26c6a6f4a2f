"""Device and precision of a torch process. torch is imported lazily."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onecard.hardware import cpu_instruction_set, cpu_multiplies_bfloat16, nvidia_trace
from onecard.settings import ModelSettings

if TYPE_CHECKING:
    import torch

MAX_CACHED_KERNELS = 64
"""Shapes whose kernels torch caches on a CPU."""
WIDTH_MULTIPLE = 8
"""The width of token rows is a multiple of it. On a GPU, SDPA would copy the mask for any other width; on a CPU there
are fewer shapes to make kernels for: on two cores a text takes 5 % less time in torch, 12 to 24 % less in OpenVINO."""


@dataclass(frozen=True)
class Device:
    """Where a model runs, and in which number format."""

    name: str
    """A torch device: `cuda:0` or `cpu`."""
    precision: str
    """Name of a torch dtype: `float16`, `bfloat16` or `float32`."""

    @property
    def dtype(self) -> "torch.dtype":
        """The precision as a torch dtype."""
        import torch

        dtype: torch.dtype = getattr(torch, self.precision)
        return dtype

    @property
    def compute_capability(self) -> tuple[int, int] | None:
        """Of the GPU, major and minor; None on a CPU."""
        if not self.name.startswith("cuda"):
            return None
        import torch

        capability: tuple[int, int] = torch.cuda.get_device_capability(self.name)
        return capability

    def make_current(self) -> None:
        """Make this the current device of the calling thread, so that nothing is allocated on another GPU."""
        if self.name.startswith("cuda"):
            import torch

            torch.cuda.set_device(self.name)


def half_precision(compute_capability: tuple[int, int] | None) -> str:
    """Choose between the two half precisions of a GPU.

    Args:
        compute_capability: of the GPU, major and minor; None if unknown.

    Returns:
        `bfloat16` from 8.0 on, where it is as fast as FP16 and does not overflow; `float16` before, and if unknown.
    """
    return "bfloat16" if compute_capability is not None and compute_capability >= (8, 0) else "float16"


def why_gpu_is_wanted(settings: ModelSettings) -> str | None:
    """Why a service must not fall back to the CPU.

    Args:
        settings: `USE_GPU`, and whether it was set by hand.

    Returns:
        The beginning of a sentence; None if the CPU will do.
    """
    if not settings.use_gpu:
        return None
    return nvidia_trace() or ("USE_GPU=true is set" if "use_gpu" in settings.model_fields_set else None)


def no_cuda(wanted: str, reason: str) -> str:
    """The refusal of a service that would have to fall back to the CPU.

    Args:
        wanted: from `why_gpu_is_wanted`.
        reason: why CUDA does not work.

    Returns:
        One line that says what to do.
    """
    return f"{wanted}, and CUDA does not work: {reason}. 'onecard doctor' says more; USE_GPU=false uses the CPU."


def cpu_precision(settings: ModelSettings) -> str:
    """Choose the number format of models on this CPU.

    Args:
        settings: whether half precision is allowed.

    Returns:
        `bfloat16` where it is allowed and the CPU has the instructions; else `float32`.
    """
    return "bfloat16" if settings.use_fp16 and cpu_multiplies_bfloat16() else "float32"


def select_device(settings: ModelSettings) -> Device:
    """Choose FP16 on the GPU; on a CPU bfloat16 if it has the instructions, else FP32.

    Args:
        settings: whether to use a GPU, which one, and whether half precision is allowed.

    Returns:
        The device.

    Raises:
        SystemExit: `GPU_DEVICE` names a GPU that this machine does not have; or a GPU is wanted and CUDA does not work.
    """
    if wanted := why_gpu_is_wanted(settings):
        import torch  # A service on a CPU with a built engine does without it.

        if not torch.cuda.is_available():
            has_cuda = torch.version.cuda is not None
            build = f"torch {torch.__version__} finds no GPU that works" if has_cuda else "torch is its CPU build"
            raise SystemExit(no_cuda(wanted, build))
        if settings.gpu_device >= torch.cuda.device_count():
            raise SystemExit(f"GPU_DEVICE={settings.gpu_device}, but there are {torch.cuda.device_count()} GPUs here.")
        return Device(f"cuda:{settings.gpu_device}", "float16" if settings.use_fp16 else "float32")
    _bound_kernel_caches()
    return Device("cpu", cpu_precision(settings))


def instruction_set(device: str) -> tuple[str, ...]:
    """What an engine that was built and measured here must find again where it serves.

    Args:
        device: `cpu` or `cuda`.

    Returns:
        The processor's instructions, or the current card's name and compute capability.
    """
    if device == "cpu":
        return cpu_instruction_set()
    import torch

    major, minor = torch.cuda.get_device_capability()
    return (torch.cuda.get_device_name(), f"sm_{major}{minor}")


def _bound_kernel_caches() -> None:
    """Make oneDNN, and torch's cache above it, keep the kernels of a few shapes only.

    Nearly every batch has a new shape, and a cached kernel takes about 1 MB; by default up to a thousand are kept.
    Creating a kernel again takes no measurable time.
    """
    for variable in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(variable, str(MAX_CACHED_KERNELS))
