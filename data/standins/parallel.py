"""Several trainings at a time, each in a process of its own with its share of the cores.

Matrices this small gain little from a second thread; two trainings side by side nearly double the pace.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from standins.recipe import Kind

LONGEST_FIRST: tuple[Kind, ...] = ("llm", "sentiment", "embedding")
POLL_SECONDS = 0.2


def train_all(kinds: Sequence[Kind], out: Path, *, seed: int, force: bool) -> bool:
    """Train each of `kinds` into `out`, as many at a time as there are cores. Returns False if one failed.

    Whatever ends this call early ends the trainings too.
    """
    cores = len(os.sched_getaffinity(0))
    waiting = [kind for kind in LONGEST_FIRST if kind in kinds]
    jobs = min(cores, len(waiting))
    running: list[subprocess.Popen[bytes]] = []
    done: list[subprocess.Popen[bytes]] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_start(waiting.pop(0), out, seed, force, threads=max(1, cores // jobs)))
            time.sleep(POLL_SECONDS)
            done += [process for process in running if process.poll() is not None]
            running = [process for process in running if process.returncode is None]
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
    return all(process.returncode == 0 for process in done)


def _start(kind: Kind, out: Path, seed: int, force: bool, *, threads: int) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "standins",
        "train",
        "--out",
        str(out),
        "--only",
        kind,
        "--seed",
        str(seed),
    ]
    if force:
        command.append("--force")
    # Waiting threads sleep instead of spinning: the machine is usually shared.
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.Popen(command, env=environment)  # noqa: S603
