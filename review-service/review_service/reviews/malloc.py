"""Has the C library give memory back to the system. LanceDB computes in some dozens of threads, by large buffers that
live for a moment; by itself glibc keeps twice to three times of what is in use.
"""

import ctypes

MAX_ARENAS = 2
MMAP_THRESHOLD_BYTES = 128 * 1024
"""Bytes: what is larger goes back as soon as it is freed. Without this figure glibc raises its own to 32 MB."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LIBRARY = ctypes.CDLL(None)


def limit_arenas() -> None:
    """For the whole process, before it has threads; nothing where the C library is another one."""
    if hasattr(_LIBRARY, "mallopt"):
        for name, value in (
            (_ARENA_MAX, MAX_ARENAS),
            (_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES),
            (_TRIM_THRESHOLD, MMAP_THRESHOLD_BYTES),
        ):
            _LIBRARY.mallopt(name, value)


def trim() -> None:
    """What is free now."""
    if hasattr(_LIBRARY, "malloc_trim"):
        _LIBRARY.malloc_trim(0)
