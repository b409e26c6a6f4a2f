"""The double, and the command beside it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.runpod.fake_runpod import ACCOUNT_KEY, FakeRunPod, gpu_entry, running

POD_KEY = "rpa_POD0123456789"
INHERITED = ("PATH", "HOME", "LANG", "PYTHONPATH", "TMPDIR")
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def runpod() -> Iterator[FakeRunPod]:
    """An account without pods, and three cards of 24 GB and one of 80 in the catalog."""
    with running() as double:
        double.catalog = [
            gpu_entry("NVIDIA A100 80GB PCIe", 1.79, memory=80, EU_RO_1="HIGH"),
            gpu_entry("NVIDIA GeForce RTX 4090", 0.69, EU_RO_1="HIGH", US_KS_2="HIGH"),
            gpu_entry("NVIDIA L4", 0.39, "MEDIUM", US_KS_2="MEDIUM"),
            gpu_entry("NVIDIA RTX A5000", 0.27, "LOW", EU_RO_1="LOW"),
            gpu_entry("NVIDIA GeForce RTX 3090", 0.22, "NONE"),
        ]
        yield double


@contextmanager
def pod_process(runpod: FakeRunPod, *arguments: str, cwd: Path, **variables: str) -> Iterator["subprocess.Popen[str]"]:
    """`python -m` with arguments, in a pod of the double, with what RunPod sets there."""
    runpod.keys = {POD_KEY}
    runpod.add_pod("abc", "RUNNING")
    environment = {name: value for name, value in os.environ.items() if name in INHERITED}
    environment |= {"RUNPOD_API_URL": runpod.url, "RUNPOD_API_KEY": POD_KEY, "RUNPOD_POD_ID": "abc", **variables}
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        env=environment, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def pod_command(runpod: FakeRunPod, tmp_path: Path) -> Command:
    """Runs `onecard-pod` in an empty folder, against the double."""

    def run(*arguments: str, said: str = "", **variables: str) -> "subprocess.CompletedProcess[str]":
        inherited = {name: value for name, value in os.environ.items() if name in INHERITED}
        own = {"RUNPOD_API_URL": runpod.url, "RUNPOD_API_KEY": ACCOUNT_KEY, "POD_IMAGE": "example/onecard-pod:1"}
        command = [sys.executable, "-m", "onecard_runpod", *arguments]
        environment = {**inherited, **own, **variables}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, input=said, capture_output=True, text=True, timeout=60
        )

    return run
