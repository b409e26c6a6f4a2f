"""Device and precision of a torch process. torch is imported lazily."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onecard.machine import cpu_multiplies_bfloat16
from onecard.settings import ModelSettings

if TYPE_CHECKING:
    import torch


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


def choose(settings: ModelSettings) -> Device:
    """FP16 on the GPU; on the CPU bfloat16 where the processor multiplies it in hardware, else FP32.

    Raises:
        SystemExit: `GPU_DEVICE` names a GPU that this machine does not have.
    """
    import torch

    if settings.use_gpu and torch.cuda.is_available():
        if settings.gpu_device >= torch.cuda.device_count():
            raise SystemExit(f"GPU_DEVICE={settings.gpu_device}, but there are {torch.cuda.device_count()} GPUs here.")
        return Device(f"cuda:{settings.gpu_device}", "float16" if settings.use_fp16 else "float32")
    half = settings.use_fp16 and cpu_multiplies_bfloat16()
    return Device("cpu", "bfloat16" if half else "float32")
