"""What hardware this machine has, found without importing torch, for launchers and for defaults of settings."""

from pathlib import Path

_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def has_nvidia_gpu(devices: Path = Path("/dev")) -> bool:
    """Whether an NVIDIA driver shows a GPU to this process.

    Args:
        devices: folder of device files; tests pass another one.

    Returns:
        True if there is an NVIDIA device file, or WSL's `dxg`.
    """
    return any(devices.glob("nvidia[0-9]*")) or (devices / "dxg").exists()


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
