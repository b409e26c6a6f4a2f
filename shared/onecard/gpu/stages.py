"""Log lines of the stages of a start: how long each took, and the memory afterwards. torch is imported lazily."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

from onecard import logs
from onecard.gpu.device import Device

MIB = 1 << 20

log = logs.logger()


def memory_fields(device: Device) -> dict[str, int]:
    """The memory of this process, for a log line.

    Args:
        device: where it computes.

    Returns:
        In MiB: torch's present reserve and its highest so far on a GPU; on a CPU the highest resident size so far.
    """
    if not device.name.startswith("cuda"):
        return {"peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
    import torch

    return {
        "gpu_mib": torch.cuda.memory_reserved(device.name) // MIB,
        "gpu_peak_mib": torch.cuda.max_memory_reserved(device.name) // MIB,
    }


@contextmanager
def stage(name: str, device: Device) -> Iterator[None]:
    """Log duration and memory of the block, when it has ended without an error.

    Args:
        name: `load` or `warm-up`.
        device: where it computes.

    Yields:
        Nothing.
    """
    started = time.perf_counter()
    yield
    log.info("stage", stage=name, seconds=round(time.perf_counter() - started, 2), **memory_fields(device))
