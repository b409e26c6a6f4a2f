"""Runs each step of a contender in a process of its own, and measures its memory."""

import json
import subprocess
import sys
from typing import Any, Literal

from bench.memory import PeakMemory
from bench.paths import ROOT
from bench.search.vectors import Dataset

Step = Literal["build", "search"]


def step(name: Step, contender: str, data: Dataset) -> dict[str, Any]:
    """Run one step.

    Args:
        name: the step.
        contender: name of the contender.
        data: the vectors.

    Returns:
        The step's figures and the peak memory of its process, in MB.

    Raises:
        subprocess.CalledProcessError: the process failed; the reason is on standard error.
    """
    command = [sys.executable, "-m", "bench.search.single_process", name, contender, str(data.folder), str(data.rows)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process, PeakMemory(process.pid) as watch:
        said, _ = process.communicate()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    figures: dict[str, Any] = json.loads(said)
    return {**figures, f"{name}_peak_mb": watch.peak_bytes / 1e6}
