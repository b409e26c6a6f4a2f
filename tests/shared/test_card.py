"""Asking the driver about a card, with a driver that is faked: NVML's Python package, and `nvidia-smi`."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from onecard.gpu.nvml import MIB, GpuUsage, NvmlGpu, gpu_total_bytes, parse_smi_memory, process_tree, visible_gpu


class FakeNvml:
    """One card, by index 0 and by UUID."""

    nvmlMemory_v2 = 2

    class NVMLError(Exception):
        """As NVML raises it."""

    def __init__(self, *, old: bool = False, dead: bool = False) -> None:
        self._old, self._dead = old, dead
        self.running = [SimpleNamespace(pid=10, usedGpuMemory=500), SimpleNamespace(pid=11, usedGpuMemory=None)]

    def nvmlInit(self) -> None:
        """Fails where no driver runs."""
        if self._dead:
            raise self.NVMLError

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        """Only the first card is there."""
        if index:
            raise self.NVMLError
        return "handle"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        """Any UUID."""
        return f"handle of {uuid}"

    def nvmlDeviceGetMemoryInfo(self, handle: str, version: int | None = None) -> Any:
        """An old driver knows only the first version, whose total is without the reserve."""
        if version and self._old:
            raise self.NVMLError
        return SimpleNamespace(total=24_576, reserved=316) if version else SimpleNamespace(total=24_268, used=9_000)

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:
        """Percent; a virtual card does not know."""
        if self._old:
            raise self.NVMLError
        return SimpleNamespace(gpu=37)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:
        """Whoever computes there."""
        return self.running


@pytest.mark.parametrize(
    ("visible", "device", "card"),
    [(None, 1, "1"), ("", 0, "0"), ("4,6", 1, "6"), ("GPU-a, GPU-b", 1, "GPU-b"), ("4", 1, "1")],
)
def test_the_index_counts_within_the_visible_cards(visible: str | None, device: int, card: str) -> None:
    """A container that sees cards 4 and 6 has 6 as its second."""
    assert visible_gpu(device, {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}) == card


def test_the_total_is_what_cuda_counts() -> None:
    """Without the driver's reserve, on new drivers and old ones."""
    for nvml, total in ((FakeNvml(), 24_260), (FakeNvml(old=True), 24_268)):
        card = NvmlGpu.open("0", nvml)
        assert card is not None
        assert card.total_bytes() == total
    assert NvmlGpu.open("GPU-a", FakeNvml()) is not None


def test_no_driver_and_no_such_card_are_none() -> None:
    """The caller goes on with the next source."""
    assert NvmlGpu.open("0", FakeNvml(dead=True)) is None
    assert NvmlGpu.open("3", FakeNvml()) is None


def test_memory_of_processes_is_known_or_absent() -> None:
    """Only our processes count, and no number is made up for those that the driver does not know."""
    card = NvmlGpu.open("0", FakeNvml())
    assert card is not None
    assert card.used_bytes({10, 11, 12}) == 500
    assert card.used_bytes({11}) is None
    assert card.used_bytes({99}) is None


def test_the_use_of_a_card_is_known_or_absent() -> None:
    """A share of time and bytes, of all processes."""
    card, silent = NvmlGpu.open("0", FakeNvml()), NvmlGpu.open("0", FakeNvml(old=True))
    assert card is not None
    assert silent is not None
    assert card.usage() == GpuUsage(busy_ratio=0.37, used_bytes=9_000, total_bytes=24_268)
    assert silent.usage() is None


@pytest.mark.parametrize(
    ("line", "mib"),
    [("24576, 316\n", 24_260), ("81559\n", 81_559), ("24576, [N/A]\n", 24_576), ("[N/A]\n", None), ("", None)],
)
def test_the_line_of_nvidia_smi(line: str, mib: int | None) -> None:
    """MiB, with or without the reserve."""
    assert parse_smi_memory(line) == (None if mib is None else mib * MIB)


@pytest.mark.parametrize(
    ("script", "mib"),
    [
        ('echo "24576, 316"', 24_260),
        ('case "$*" in *reserved*) exit 2;; *) echo 24576;; esac', 24_576),
        ("echo no devices; exit 6", None),
    ],
)
def test_nvidia_smi_is_asked_where_nvml_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, mib: int | None
) -> None:
    """An old one does not know the reserve; a dead driver says nothing."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\n{script}\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert gpu_total_bytes("0") == (None if mib is None else mib * MIB)


def test_a_process_and_its_descendants() -> None:
    """Children of children too, and nobody else."""
    nested = f"import subprocess; subprocess.run([{sys.executable!r}, '-c', 'print(flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", nested], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found = process_tree(child.pid)
        assert child.pid in found
        assert len(found) == 2
        assert found < process_tree(os.getpid())
        assert os.getppid() not in process_tree(os.getpid())
        child.communicate(b"\n")
