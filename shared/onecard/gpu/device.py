"""Device and precision of a torch process. torch is imported lazily."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onecard.hardware import cpu_multiplies_bfloat16
from onecard.settings import ModelSettings

if TYPE_CHECKING:
    import torch

MAX_CACHED_KERNELS = 64
"""Shapes whose kernels are kept on a CPU."""


@dataclass(frozen=True)
class Device:
    """Where and in which number format a model runs."""

    name: str
    """A torch device: `cuda:0` or `cpu`."""
    precision: str
    """`float16`, `bfloat16` or `float32`: the name of a torch dtype."""

    @property
    def dtype(self) -> "torch.dtype":
        """The precision, as torch has it."""
        import torch

        dtype: torch.dtype = getattr(torch, self.precision)
        return dtype

    @property
    def width_multiple(self) -> int:
        """What the width of a row of tokens is a multiple of: SDPA on a GPU would copy the mask into one that is."""
        return 8 if self.name.startswith("cuda") else 1

    def make_current(self) -> None:
        """Make it the calling thread's current device, so that nothing lands on another GPU."""
        if self.name.startswith("cuda"):
            import torch

            torch.cuda.set_device(self.name)


def select_device(settings: ModelSettings) -> Device:
    """FP16 on the GPU; on the CPU bfloat16 where the processor multiplies it in hardware, else FP32.

    Raises:
        SystemExit: `GPU_DEVICE` names a GPU that this machine does not have.
    """
    import torch

    if settings.use_gpu and torch.cuda.is_available():
        if settings.gpu_device >= torch.cuda.device_count():
            raise SystemExit(f"GPU_DEVICE={settings.gpu_device}, but there are {torch.cuda.device_count()} GPUs here.")
        return Device(f"cuda:{settings.gpu_device}", "float16" if settings.use_fp16 else "float32")
    _bound_kernel_caches()
    half = settings.use_fp16 and cpu_multiplies_bfloat16()
    return Device("cpu", "bfloat16" if half else "float32")


def _bound_kernel_caches() -> None:
    """Let oneDNN, and torch's layer above it, keep the kernels of a few shapes only.

    Nearly every batch has a shape of its own, and a kernel kept for it costs about 1 MB: by default up to a thousand
    of them. Making one anew takes no time that could be measured.
    """
    for variable in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(variable, str(MAX_CACHED_KERNELS))
