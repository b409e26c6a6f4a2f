"""What hardware this machine has, found without importing torch, for launchers and for defaults of settings."""

from pathlib import Path

_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})

_NVIDIA_VENDOR = "0x10de"
_DISPLAY_CLASS = "0x03"
"""PCI's class of graphics cards and 3D controllers."""


def has_nvidia_gpu(devices: Path = Path("/dev")) -> bool:
    """Whether an NVIDIA driver shows a GPU to this process.

    Args:
        devices: folder of device files; tests pass another one.

    Returns:
        True if there is an NVIDIA device file, or WSL's `dxg`.
    """
    return any(devices.glob("nvidia[0-9]*")) or (devices / "dxg").exists()


def nvidia_trace(root: Path = Path("/")) -> str | None:
    """Find what shows that this machine has an NVIDIA GPU or driver, working or not.

    Args:
        root: of the file system; tests pass another one.

    Returns:
        The beginning of a sentence; None if there is nothing of it.
    """
    if has_nvidia_gpu(root / "dev"):
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
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return not _BFLOAT16_FLAGS.isdisjoint(flags.split())


def available_memory_bytes(meminfo: Path = Path("/proc/meminfo")) -> int:
    """How much memory a process can have without swapping.

    Args:
        meminfo: Linux's description of the memory; tests pass another file.

    Returns:
        Bytes; 0 if the file cannot be read or does not say.
    """
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return 0
    kib = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), "0")
    return int(kib) * 1024
