"""Makes the C library return freed memory to the system.

LanceDB uses dozens of threads with large, short-lived buffers. With glibc's defaults the process keeps two to three
times as much memory as it uses.
"""

import ctypes

MAX_ARENAS = 2
MMAP_THRESHOLD_BYTES = 128 * 1024
"""Larger blocks are returned as soon as they are freed. Unless it is set, glibc raises its threshold up to 32 MB."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LIBRARY = ctypes.CDLL(None)


def limit_arenas() -> None:
    """Configure glibc's allocator for this process, before threads start. Does nothing with another C library."""
    if hasattr(_LIBRARY, "mallopt"):
        for name, value in (
            (_ARENA_MAX, MAX_ARENAS),
            (_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES),
            (_TRIM_THRESHOLD, MMAP_THRESHOLD_BYTES),
        ):
            _LIBRARY.mallopt(name, value)


def trim() -> None:
    """Return free memory to the system. Does nothing with another C library than glibc."""
    if hasattr(_LIBRARY, "malloc_trim"):
        _LIBRARY.malloc_trim(0)
