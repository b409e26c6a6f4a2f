"""What hardware this machine has, found without importing torch, for launchers and for defaults of settings."""

import platform
from contextlib import suppress
from pathlib import Path

_CALCULATING_FLAGS = frozenset(
    {"avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16"}
    # AMX, and Arm's
    | {"amx_int8", "amx_bf16", "amx_fp16", "asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"}
)
_INT8_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"})
_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})

_NVIDIA_VENDOR = "0x10de"
_DISPLAY_CLASS = "0x03"
"""PCI's class of graphics cards and 3D controllers."""


def has_nvidia_gpu(root: Path = Path("/")) -> bool:
    """Whether an NVIDIA driver shows a GPU to this process.

    Args:
        root: of the file system; tests pass another one.

    Returns:
        True if there is an NVIDIA device file, or WSL's with CUDA's library: any maker's graphics have the device.
    """
    if any((root / "dev").glob("nvidia[0-9]*")):
        return True
    # A container under WSL has the library only where Windows stores the driver.
    libraries = ("lib/libcuda.so.1", "drivers/*/libcuda.so.1*")
    return (root / "dev/dxg").exists() and any(any((root / "usr/lib/wsl").glob(one)) for one in libraries)


def nvidia_trace(root: Path = Path("/")) -> str | None:
    """Find what shows that this machine has an NVIDIA GPU or driver, working or not.

    Args:
        root: of the file system; tests pass another one.

    Returns:
        The beginning of a sentence; None if there is nothing of it.
    """
    if has_nvidia_gpu(root):
        return "there is an NVIDIA GPU"
    if (root / "proc/driver/nvidia/version").exists():
        return "NVIDIA's driver is loaded"
    cards = (path.parent for path in (root / "sys/bus/pci/devices").glob("*/vendor") if _reads(path, _NVIDIA_VENDOR))
    if any(_reads(card / "class", _DISPLAY_CLASS) for card in cards):
        return "there is an NVIDIA card, without a driver"
    return None


def _reads(path: Path, beginning: str) -> bool:
    try:
        return path.read_text().startswith(beginning)
    except OSError:
        return False


def cpu_multiplies_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU has bfloat16 instructions; without them bfloat16 is slower than FP32.

    Args:
        cpuinfo: Linux's description of the processor; tests pass another file.

    Returns:
        True if one of `avx512_bf16`, `amx_bf16` and `bf16` (Arm) is among the flags; False if the file cannot be read.
    """
    return not _BFLOAT16_FLAGS.isdisjoint(_cpu_flags(cpuinfo))


def cpu_multiplies_int8(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU sums products of 8 bits in 32; others sum two of them in 16 bits, where they can saturate.

    Args:
        cpuinfo: Linux's description of the processor; tests pass another file.

    Returns:
        True if it has VNNI, AMX or Arm's dot products; False if the file cannot be read.
    """
    return not _INT8_FLAGS.isdisjoint(_cpu_flags(cpuinfo))


def cpu_instruction_set(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """The instructions that decide how a CPU calculates with matrices, and how fast.

    Args:
        cpuinfo: Linux's description of the processor; tests pass another file.

    Returns:
        The processor's architecture, then the names of its vector and matrix flags in order.
    """
    return (platform.machine(), *sorted(_CALCULATING_FLAGS.intersection(_cpu_flags(cpuinfo))))


def _cpu_flags(cpuinfo: Path) -> frozenset[str]:
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith(("flags", "Features"))), "").split())


def available_memory_bytes(root: Path = Path("/")) -> int:
    """How much memory this process can have without swapping: what the machine has left, or its container's limit.

    Args:
        root: of the file system; tests pass another one.

    Returns:
        Bytes; 0 if Linux's description of the memory cannot be read or does not say.
    """
    available = _number(root / "proc/meminfo", "MemAvailable:") * 1024
    group = root / "sys/fs/cgroup"
    with suppress(OSError, ValueError):  # There is no limit: no such file, or it says «max».
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        # Files that were read lately, a model's weights above all, count as used, and make room when it is needed.
        available = min(available, max(0, limit - used + _number(group / "memory.stat", "inactive_file")))
    return available


def _number(file: Path, name: str) -> int:
    """The number behind a name at the beginning of a line; 0 if there is none."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return int(next((line.split()[1] for line in lines if line.startswith(f"{name} ")), "0"))
