"""How the doctor gathers its facts. Only NVIDIA's driver is faked; sockets, folders, Redis and processes are real."""

import os
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from onecard.gpu import device
from onecard.hardware import available_memory_bytes, nvidia_trace
from onecard.models.folders import STAND_INS, find
from onecard.redis.address import RedisAddress
from onecard.settings import load_from
from onecard_stack.doctor import examine, gather_gpu, gather_host
from onecard_stack.doctor.facts import Cuda, Driver, Gpu, GpuProcess, MigSlice, Xid
from onecard_stack.doctor.findings import refusals
from onecard_stack.processes.process_table import Process
from onecard_stack.settings import StackSettings
from tests.shared.cache.support import RedisProcess
from tests.stack.conftest import Workspace
from tests.stack.doctor_support import GIB, FakeGpu, FakeNvml
from tests.support import free_port


def test_what_the_driver_says() -> None:
    """Versions, memory, mode, and who computes there; a name that this user may not see is left out."""
    running = [SimpleNamespace(pid=os.getpid(), usedGpuMemory=5), SimpleNamespace(pid=2**22 + 1, usedGpuMemory=None)]
    driver = gather_gpu.read_driver(FakeNvml(FakeGpu(mode=3, running=running)))
    assert (driver.error, driver.version, driver.cuda) == (None, "580.95.05", (13, 0))
    [gpu] = driver.gpus
    assert gpu == Gpu(0, "GPU-aaaa", "NVIDIA RTX A5000", 24 * GIB, 23 * GIB, "exclusive", None, gpu.processes)
    assert gpu.processes[0].name == psutil.Process().name()
    assert gpu.processes[1] == GpuProcess(2**22 + 1, "", None)


def test_slices_of_a_card() -> None:
    """MIG that is on, with two slices of seven; MIG that is off, or that the card does not have, is none."""
    sliced, off = FakeGpu(mig=(1, 1), slices=("MIG-a", "MIG-b")), FakeGpu(mig=(0, 0))
    found = [gpu.mig for gpu in gather_gpu.read_driver(FakeNvml(sliced, off, FakeGpu())).gpus]
    assert found == [(MigSlice("MIG-a", 10 * GIB), MigSlice("MIG-b", 10 * GIB)), None, None]


def test_a_driver_that_does_not_answer_says_why() -> None:
    """In NVML's own words; without NVML's package, that it is missing."""
    assert gather_gpu.read_driver(FakeNvml(broken="Driver/library version mismatch")).error is not None
    if "pynvml" not in sys.modules:
        without = gather_gpu.read_driver().error
        assert without is not None
        assert "package" in without


def test_a_driver_too_old_for_some_questions() -> None:
    """What it cannot say is left open, and nothing else."""

    class Old(FakeNvml):
        def nvmlDeviceGetMemoryInfo(self, handle: object, version: int | None = None) -> object:
            raise self.NVMLError("Unknown")

        def nvmlDeviceGetComputeRunningProcesses(self, handle: FakeGpu) -> list[object]:
            raise self.NVMLError("Unknown")

    [gpu] = gather_gpu.read_driver(Old(FakeGpu())).gpus
    assert (gpu.total_bytes, gpu.free_bytes, gpu.processes) == (None, None, ())


RECORDS = [
    "6,1,1000000,-;Linux version 6.8",
    "3,2,3600000000,-;NVRM: Xid (PCI:0000:01:00): 31, pid=123, name=python, MMU Fault",
    "3,3,172800000000,-;NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus.",
    " SUBSYSTEM=pci",
    "garbage",
]


def test_xid_errors_are_read_from_the_kernels_log() -> None:
    """Of the last day: two days after the start, the first one is old."""
    assert gather_gpu.parse_xids(RECORDS, 2 * 3600) == [Xid(31, 1.0), Xid(79, 0.0)]
    assert gather_gpu.parse_xids(RECORDS, 48.5 * 3600) == [Xid(79, 0.5)]


def test_the_kernels_log_may_be_closed(tmp_path: Path) -> None:
    """Then it is not known, which is not the same as no error."""
    (tmp_path / "kmsg").write_text("")
    assert gather_gpu.read_xids(tmp_path / "kmsg") == []
    assert gather_gpu.read_xids(tmp_path / "none") is None


def test_cuda_is_tried_in_a_process_of_its_own() -> None:
    """The CPU build says that it is one; torch is not imported here for it."""
    import torch

    cuda = gather_gpu.try_cuda(0)
    assert cuda.torch == torch.__version__
    if torch.version.cuda is None:
        assert cuda.error == "torch is its CPU build"


def test_who_has_opened_a_gpu(tmp_path: Path) -> None:
    """By the open device files, which a container shows too; the control device alone is not the card."""
    for pid, target in (("7", "/dev/nvidia0"), ("8", "/dev/nvidiactl"), ("9", "/dev/dxg")):
        (tmp_path / pid / "fd").mkdir(parents=True)
        (tmp_path / pid / "fd" / "3").symlink_to(target)
    assert [gather_gpu.uses_gpu([pid], tmp_path) for pid in (7, 8, 9, 10)] == [True, False, True, False]
    assert gather_gpu.uses_gpu([10, 8, 7], tmp_path)


def test_cuda_is_not_tried_where_the_stack_runs(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A card that is full would fail the trial; without a stack there, it is tried."""
    tried: list[int] = []
    monkeypatch.setattr(gather_gpu, "read_driver", lambda: Driver(None, "580.1"))
    monkeypatch.setattr(gather_gpu, "try_cuda", lambda device: tried.append(device) or Cuda("2.13.0", "13.0"))
    monkeypatch.setattr(gather_gpu, "uses_gpu", lambda pids: 7 in pids)
    settings = load_from(StackSettings, {**place.env, "USE_GPU": "true", "ONECARD_HOME": str(place.folder)})
    for own_pids, times in (({7}, 0), ({8}, 1)):
        assert "cuda" not in {one.check for one in refusals(examine.machine(settings, own_pids))}
        assert len(tried) == times


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import time; time.sleep(600)", "did not answer within"),
        ("import os; os.abort()", "ended"),
        ("print(1)", "ended"),
    ],
    ids=["hangs", "crashes", "says nothing"],
)
def test_a_cuda_that_hangs_or_crashes(code: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the probe with it, and not the doctor."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{code}'\n")
    python.chmod(0o700)
    monkeypatch.setattr(gather_gpu.sys, "executable", str(python))
    monkeypatch.setattr(gather_gpu, "CUDA_PROBE_SECONDS", 1.0 if "sleep" in code else 60.0)
    cuda = gather_gpu.try_cuda(0)
    assert cuda.error is not None
    assert says in cuda.error


def test_compilers_and_nvcc(tmp_path: Path) -> None:
    """$CC before clang and gcc; nvcc by CUDA_HOME, and its CUDA version as it says it."""
    for name, text in (("mycc", ""), ("gcc", ""), ("nvcc", "echo 'Cuda compilation tools, release 13.0, V13.0.88'")):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o700)
    environment = {"CC": str(tmp_path / "bin" / "mycc"), "CUDA_HOME": str(tmp_path)}
    tools = gather_gpu.read_toolchain(["pytest", "no-such-package"], environment, vllm=True)
    assert (tools.compiler, tools.nvcc) == (str(tmp_path / "bin" / "mycc"), (13, 0))
    assert set(tools.versions) == {"pytest"}
    assert not tools.flashinfer_sampler
    asked = {"CUDA_HOME": str(tmp_path / "none"), "VLLM_USE_FLASHINFER_SAMPLER": "1"}
    tools = gather_gpu.read_toolchain([], asked, vllm=True)
    assert (tools.nvcc, tools.flashinfer_sampler) == (None, True)


def put(path: Path, text: str = "") -> None:
    """A file below folders that need not be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_what_shows_that_there_is_a_card(tmp_path: Path) -> None:
    """Its device, its driver, or the card on the bus; other makers' cards and NVIDIA's sound chips do not."""
    devices = tmp_path / "sys/bus/pci/devices"
    put(devices / "0000:00:01.0/vendor", "0x8086\n")
    put(devices / "0000:00:01.0/class", "0x030000\n")
    put(devices / "0000:01:00.1/vendor", "0x10de\n")
    put(devices / "0000:01:00.1/class", "0x040300\n")
    assert nvidia_trace(tmp_path) is None
    put(devices / "0000:01:00.0/vendor", "0x10de\n")
    put(devices / "0000:01:00.0/class", "0x030200\n")
    assert nvidia_trace(tmp_path) == "there is an NVIDIA card, without a driver"
    put(tmp_path / "proc/driver/nvidia/version")
    assert nvidia_trace(tmp_path) == "NVIDIA's driver is loaded"
    put(tmp_path / "dev/nvidia0")
    assert nvidia_trace(tmp_path) == "there is an NVIDIA GPU"


def test_a_port_that_is_taken_and_by_whom() -> None:
    """The stack's own process may have it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        process = Process("gateway", (), server.getsockname()[1])
        [taken] = gather_host.ports([process])
        assert taken.in_use
        assert f"process {os.getpid()}" in taken.listener
        [own] = gather_host.ports([process], {os.getpid()})
        assert own.error is None
    [free] = gather_host.ports([Process("llm", (), free_port()), Process("worker", (), 0)])
    assert (free.variable, free.error) == ("VLLM_PORT", None)


def test_addresses() -> None:
    """All addresses are reached by loopback; another machine's cannot be had."""
    assert gather_host.host_error("0.0.0.0") is None
    assert gather_host.host_error("192.0.2.1") is not None


def test_folders(tmp_path: Path) -> None:
    """They are made, and nothing stays there; a file in the way says why nothing can be written."""
    assert gather_host.disk(tmp_path / "new").free_mb > 0
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").write_text("")
    assert gather_host.disk(tmp_path / "file" / "below").error == "Not a directory"
    assert gather_host.logs_error(tmp_path / "logs", ["llm"]) is None
    assert (tmp_path / "logs" / "llm.log").stat().st_mode & 0o777 == 0o600
    (tmp_path / "logs" / "gateway.log").mkdir()
    said = gather_host.logs_error(tmp_path / "logs", ["llm", "gateway"])
    assert said is not None
    assert "gateway.log cannot be written" in said


def test_memory_is_the_containers(tmp_path: Path) -> None:
    """With a limit, what is left of it and what the cache of files would give back; else the machine's."""
    assert available_memory_bytes(tmp_path) == 0
    put(tmp_path / "proc/meminfo", "MemTotal:       16000000 kB\nMemAvailable:    8000000 kB\n")
    assert available_memory_bytes(tmp_path) == 8_192_000_000
    group = tmp_path / "sys/fs/cgroup"
    put(group / "memory.max", "3000000000\n")
    put(group / "memory.current", "2999000000\n")
    assert available_memory_bytes(tmp_path) == 1_000_000
    put(group / "memory.stat", "anon 1999000000\ninactive_file 1000000000\n")
    assert available_memory_bytes(tmp_path) == 1_001_000_000
    put(group / "memory.max", "max\n")
    assert available_memory_bytes(tmp_path) == 8_192_000_000
    assert available_memory_bytes() > 100_000_000, "this machine"


def test_models_take_less_where_the_cpu_has_bfloat16(model_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of FP32, to which other CPUs convert; and as much where half precision is switched off."""
    models = [find(kind, name, model_cache) for kind, name in STAND_INS.items()]
    half, whole = ({"LLM_CPU_KV_GB": "1", "USE_FP16": use} for use in ("true", "false"))
    needed = []
    for has, variables in ((True, half), (True, whole), (False, half)):
        monkeypatch.setattr(device, "cpu_multiplies_bfloat16", lambda has=has: has)
        found = examine.needed_on_cpu_mb(load_from(StackSettings, variables), models)
        assert found is not None
        needed.append(found - GIB / 1e6)
    assert needed == [pytest.approx(needed[2] / 2), needed[2], needed[2]]


def test_a_redis_answers_or_says_why_not(session_redis: RedisProcess) -> None:
    """Nobody there, and somebody who is no Redis, are told without their address."""
    assert gather_host.redis_error(RedisAddress(host="127.0.0.1", port=session_redis.port)) is None
    away = gather_host.redis_error(RedisAddress(host="127.0.0.1", port=free_port()))
    assert away is not None
    assert "127.0.0.1" not in away
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert gather_host.redis_error(RedisAddress(host="127.0.0.1", port=silent.getsockname()[1])) is not None


def test_the_clock_is_later_than_the_installation() -> None:
    """On this machine."""
    clock = gather_host.clock()
    assert clock.now > clock.installed
