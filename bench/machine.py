"""Describes the machine of a run."""

import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

REPORTED_CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
"""CPU instructions that determine how fast an encoder runs."""

MAX_IDLE_LOAD = 0.3
"""Load average per core above which the machine counts as busy."""


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, list[str]]:
    """Read the CPU's name, and which of `REPORTED_CPU_FLAGS` it has."""
    fields: dict[str, str] = {}
    with suppress(OSError):
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(":")
            fields[name.strip()] = value.strip()
    flags = fields.get("flags", fields.get("Features", "")).split()
    return fields.get("model name", platform.machine()), [flag for flag in REPORTED_CPU_FLAGS if flag in flags]


def busy() -> bool:
    """Check whether other work ran in the last minute, which would distort the figures."""
    return os.getloadavg()[0] > MAX_IDLE_LOAD * len(os.sched_getaffinity(0))


def describe(command: str) -> dict[str, Any]:
    """Describe the machine for a results file, without names of the machine or its user."""
    name, flags = processor()
    packages = ("torch", "transformers", "sentence-transformers")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
        "cpu": name,
        "cores": len(os.sched_getaffinity(0)),
        "flags": flags,
        "load_at_start": round(os.getloadavg()[0], 2),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def line(head: Mapping[str, Any]) -> str:
    """Render the description as one line of Markdown."""
    flags = ", ".join(head["flags"]) or "none of the instructions that matter"
    machine = f"{head['cpu']}, {head['cores']} cores ({flags}), {head['memory_gb']} GB, load {head['load_at_start']}"
    versions = f"Python {head['python']}, torch {head['torch']}, transformers {head['transformers']}"
    return f"{head['date']} · {machine} · {versions} · `{head['command'].strip()}`"
