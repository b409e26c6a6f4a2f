"""Gathers the facts about GPU, driver, CUDA and what compiles kernels."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from llm_service import preflight
from onecard.gpu.device import why_gpu_is_wanted
from onecard.gpu.nvml import NvmlGpu
from onecard_stack.doctor.facts import Cuda, Driver, Gpu, GpuProcess, GpuRequest, MigSlice, Toolchain, Xid
from onecard_stack.settings import StackSettings

CUDA_PROBE_SECONDS = 120.0
"""Time limit of the probe: a cold disk takes most of it to import torch."""
XID_HOURS = 24.0
"""How far back errors in the kernel's log count as recent."""
_XID = re.compile(r"NVRM: Xid \([^)]*\): (\d+)")
_GPU_FILE = re.compile(r"/dev/(nvidia\d+|dxg)$")
_COMPUTE_MODES = {2: "prohibited", 3: "exclusive"}
"""NVML_COMPUTEMODE_PROHIBITED and NVML_COMPUTEMODE_EXCLUSIVE_PROCESS."""


def gpu_request(settings: StackSettings, environment: Mapping[str, str]) -> GpuRequest:
    """Which GPU the settings and the environment ask for."""
    return GpuRequest(
        wanted=why_gpu_is_wanted(settings),
        use_gpu=settings.use_gpu,
        device=settings.gpu_device,
        visible=environment.get("CUDA_VISIBLE_DEVICES"),
        order=environment.get("CUDA_DEVICE_ORDER"),
    )


def read_driver(nvml: Any = None) -> Driver:
    """Ask the driver through NVML, which stays loaded until this process ends.

    Args:
        nvml: the module `pynvml`; tests pass a fake.

    Returns:
        What it says, or why it does not answer.
    """
    try:
        nvml = nvml or importlib.import_module("pynvml")
    except ImportError:
        return Driver(error="NVML's Python package is not installed, which comes with the builds for CUDA")
    try:
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        gpus = tuple(_gpu(nvml, index, handle) for index, handle in enumerate(handles))
        version = str(nvml.nvmlSystemGetDriverVersion())
    except nvml.NVMLError as error:
        return Driver(error=str(error) or type(error).__name__)
    cuda = _asked(nvml, nvml.nvmlSystemGetCudaDriverVersion_v2)
    return Driver(None, version, (cuda // 1000, cuda % 1000 // 10) if cuda else None, gpus)


def _asked(nvml: Any, question: Callable[..., Any], *arguments: Any) -> Any:
    """The driver's answer; None if it cannot say."""
    try:
        return question(*arguments)
    except nvml.NVMLError:
        return None


def _gpu(nvml: Any, index: int, handle: Any) -> Gpu:
    memory = _asked(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)
    mode = _asked(nvml, nvml.nvmlDeviceGetComputeMode, handle)
    running = _asked(nvml, nvml.nvmlDeviceGetComputeRunningProcesses, handle) or []
    return Gpu(
        index=index,
        uuid=str(nvml.nvmlDeviceGetUUID(handle)),
        name=str(nvml.nvmlDeviceGetName(handle)),
        total_bytes=NvmlGpu(nvml, handle).total_bytes(),
        free_bytes=memory and int(memory.free),
        compute_mode=_COMPUTE_MODES.get(mode, "default"),
        mig=_mig(nvml, handle),
        processes=tuple(GpuProcess(one.pid, _name(one.pid), one.usedGpuMemory) for one in running),
    )


def _mig(nvml: Any, handle: Any) -> tuple[MigSlice, ...] | None:
    mode = _asked(nvml, nvml.nvmlDeviceGetMigMode, handle)
    if not mode or not mode[0]:
        return None
    slices = []
    for index in range(_asked(nvml, nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        if (part := _asked(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, index)) is not None:
            memory = _asked(nvml, nvml.nvmlDeviceGetMemoryInfo, part)
            slices.append(MigSlice(str(nvml.nvmlDeviceGetUUID(part)), memory and int(memory.total)))
    return tuple(slices)


def _name(pid: int) -> str:
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return ""


def uses_gpu(pids: Iterable[int], proc: Path = Path("/proc")) -> bool:
    """Whether one of these processes has opened an NVIDIA GPU. In containers, NVML does not know them by their ids.

    Args:
        pids: of this user's processes.
        proc: Linux's folder of processes; tests pass another one.

    Returns:
        True if there is an open device file of a GPU, or WSL's `dxg`.
    """
    for pid in pids:
        with suppress(OSError):  # It has ended, or is another user's.
            if any(_GPU_FILE.match(os.readlink(file)) for file in (proc / str(pid) / "fd").iterdir()):
                return True
    return False


def try_cuda(device: int) -> Cuda:
    """Let torch compute something on the GPU, in a process of its own.

    Args:
        device: index among the visible ones.

    Returns:
        How it went.
    """
    command = [sys.executable, "-m", "onecard_stack.doctor.cuda_probe", str(device)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CUDA_PROBE_SECONDS)  # noqa: S603 - no shell
        return Cuda(**json.loads(done.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        return Cuda(error=f"the GPU did not answer within {CUDA_PROBE_SECONDS:g} s", torch="?", built_for="?")
    except (OSError, ValueError, TypeError, IndexError):
        return Cuda(error="the process that tried it ended", torch="?", built_for="?")


def read_xids(kmsg: Path = Path("/dev/kmsg")) -> list[Xid] | None:
    """Read the driver's recent errors from the kernel's log.

    Args:
        kmsg: the log's device; tests pass a file.

    Returns:
        The errors of the last `XID_HOURS`; None if the log cannot be read.
    """
    try:
        descriptor = os.open(kmsg, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    records = []
    try:
        while record := os.read(descriptor, 8192):  # The device gives one record at a time.
            records += record.decode(errors="replace").splitlines()
    except OSError:
        pass  # No more records for now, or the oldest were overwritten while they were read.
    finally:
        os.close(descriptor)
    return parse_xids(records, time.clock_gettime(time.CLOCK_MONOTONIC))


def parse_xids(records: Iterable[str], uptime_seconds: float) -> list[Xid]:
    """Find the driver's errors in records of `/dev/kmsg`: `priority,number,µs since the start,flags;text`.

    Args:
        records: of the log.
        uptime_seconds: time since the start of the machine.

    Returns:
        The errors of the last `XID_HOURS`, in the log's order.
    """
    found = []
    for record in records:
        head, _, text = record.partition(";")
        fields = head.split(",")
        if (match := _XID.search(text)) and len(fields) > 2 and fields[2].isdigit():
            hours = (uptime_seconds - int(fields[2]) / 1e6) / 3600
            if hours <= XID_HOURS:
                found.append(Xid(int(match[1]), max(0.0, hours)))
    return found


def read_toolchain(packages: Iterable[str], environment: Mapping[str, str], *, vllm: bool) -> Toolchain:
    """Look for compilers and versions.

    Args:
        packages: distributions to look for.
        environment: `CC`, `PATH`, `CUDA_HOME`, and which sampler is asked for.
        vllm: whether vLLM's build for CUDA serves.

    Returns:
        What is installed.
    """
    compilers = (environment.get("CC"), "clang", "gcc")
    found = next((path for name in compilers if name and (path := shutil.which(name))), None)
    return Toolchain(
        vllm=vllm,
        compiler=found,
        python_headers=(Path(sysconfig.get_path("include")) / "Python.h").is_file(),
        versions=_installed(packages),
        flashinfer_sampler=environment.get("VLLM_USE_FLASHINFER_SAMPLER") == "1" and not preflight.flashinfer_kernels(),
        nvcc=_nvcc(environment),
    )


def _installed(packages: Iterable[str]) -> dict[str, str]:
    versions = {}
    for name in packages:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name).partition("+")[0]
    return versions


def _nvcc(environment: Mapping[str, str]) -> tuple[int, int] | None:
    """Version of the nvcc that FlashInfer finds: in the toolkit that is named, on the PATH, or in the usual place."""
    homes = [environment[name] for name in ("CUDA_HOME", "CUDA_PATH") if environment.get(name)]
    places = [f"{home}/bin/nvcc" for home in homes] or [shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"]
    try:
        done = subprocess.run([places[0], "--version"], capture_output=True, text=True, timeout=20)  # noqa: S603 - no shell
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"release (\d+)\.(\d+)", done.stdout)
    return (int(match[1]), int(match[2])) if match else None
