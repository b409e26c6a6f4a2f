"""Runs the checks: gathers the facts for each and hands them to it."""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from llm_service import preflight
from onecard import hardware
from onecard.gpu import nvml
from onecard.gpu.costs import GIB, HALF_PRECISION_BYTES, loaded_bytes
from onecard.gpu.device import cpu_precision
from onecard.gpu.plan import PlanDoesNotFit
from onecard.gpu.plan_settings import UnknownModelSize, plan_from_settings
from onecard.models import folders, model_files
from onecard.models.folders import ModelFolder, ModelKind
from onecard_stack import file_owners
from onecard_stack.doctor import (
    cuda_rules,
    gather_gpu,
    gather_host,
    gpu_checks,
    host_checks,
    model_checks,
    toolchain_checks,
)
from onecard_stack.doctor.facts import Cuda, Driver
from onecard_stack.doctor.findings import Finding, ok, refusal, require, sentence
from onecard_stack.doctor.model_checks import Model
from onecard_stack.processes import host, monitoring
from onecard_stack.processes.process_table import Process
from onecard_stack.settings import HomeSettings, StackSettings

_FP32_BYTES = 4
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - it is looked at, and nothing is kept there


def machine(
    settings: StackSettings, own_pids: Collection[int], *, free_mb: float = host_checks.MIN_FREE_MB
) -> list[Finding]:
    """Check what has to be right before models are fetched: addresses, folders, time, GPU, CUDA, compilers.

    Args:
        settings: the stack's settings.
        own_pids: ids of the processes of the stack that runs here.
        free_mb: required space for logs and run files, in MB.

    Returns:
        The findings.
    """
    home = settings.onecard_home
    return [
        host_checks.check_key(gather_host.key_error(settings)),
        host_checks.check_host(settings.host, gather_host.host_error(settings.host)),
        owners(settings),
        host_checks.check_disk(gather_host.disk(home), free_mb),
        host_checks.check_clock(gather_host.clock()),
        *host_checks.check_monitoring(wanted=settings.monitoring, installed=monitoring.PROMETHEUS.exists()),
        *_gpu(settings, own_pids),
    ]


def owners(home: HomeSettings) -> Finding:
    """Check that all files of the stack are this user's.

    Args:
        home: where they are.

    Returns:
        The finding.
    """
    foreign = file_owners.foreign_files([home.onecard_home, home.run_folder, home.log_folder])
    return host_checks.check_owners(foreign, home.onecard_home)


def _gpu(settings: StackSettings, own_pids: Collection[int]) -> list[Finding]:
    request = gather_gpu.gpu_request(settings, os.environ)
    if request.wanted is None:
        return [*gpu_checks.check_gpu(request, Driver(), None, None), *_engine(settings, vllm_on_gpu=False)]
    in_use = gather_gpu.uses_gpu(own_pids)
    cuda, driver = Cuda(in_use=True) if in_use else gather_gpu.try_cuda(request.device), gather_gpu.read_driver()
    rules = cuda_rules.table()
    vllm_on_gpu = settings.vllm_enabled and preflight.vllm_build() == "cuda"
    tools = gather_gpu.read_toolchain(cuda_rules.packages(rules), os.environ, vllm=vllm_on_gpu)
    return [
        *gpu_checks.check_gpu(request, driver, cuda, gather_gpu.read_xids()),
        *toolchain_checks.check_toolchain(tools, rules),
        *_engine(settings, vllm_on_gpu=vllm_on_gpu),
    ]


def _engine(settings: StackSettings, *, vllm_on_gpu: bool) -> list[Finding]:
    """What the LLM service checks by itself, and the shared memory that its processes need."""
    try:
        preflight.detect_host(settings)
        engine = ok("engine", "vLLM serves the LLM." if settings.vllm_enabled else "Transformers serves the LLM.")
    except SystemExit as error:
        engine = refusal("engine", f"The LLM does not start: {error}")
    shared = host_checks.check_shared_memory(gather_host.disk(_SHARED_MEMORY), vllm_on_gpu=vllm_on_gpu)
    return [engine, shared]


def models(settings: StackSettings, changed: Mapping[ModelKind, Sequence[Path]] | None = None) -> list[Model]:
    """Look for the models.

    Args:
        settings: the stack's settings.
        changed: files that differ from those that were fetched, by kind; None if nobody has compared them.

    Returns:
        What is found of each kind. Nothing large is read.
    """
    return [_model(kind, name, settings, (changed or {}).get(kind, ())) for kind, name in settings.models.items()]


def _model(kind: ModelKind, name: str, settings: StackSettings, changed: Sequence[Path]) -> Model:
    try:
        folder = folders.find(kind, name, settings.model_cache_path, stand_ins=settings.allow_stand_ins)
    except SystemExit as error:
        return Model(kind, name, missing=str(error))
    check = preflight.model_fault if kind == "llm" else model_files.integrity_error
    return Model(kind, name, folder, fault=check(folder.path), changed=changed)


def require_models(settings: StackSettings) -> dict[ModelKind, ModelFolder]:
    """Find the model folders that the services will load.

    Args:
        settings: the stack's settings.

    Returns:
        The folder of the model, or of its stand-in, by kind.

    Raises:
        Refused: one is missing or broken.
    """
    found = models(settings)
    require(model_checks.check_models(found, fetches=False))
    return {model.kind: model.folder for model in found if model.folder is not None}


def require_space(folder: Path, needed_mb: float, purpose: str) -> None:
    """Check that something large can be written.

    Args:
        folder: where.
        needed_mb: required space, in MB.
        purpose: what for.

    Raises:
        Refused: there is less space, or the folder cannot be written to.
    """
    require([host_checks.check_disk(gather_host.disk(folder), needed_mb, purpose)])


def before_start(
    settings: StackSettings,
    processes: Sequence[Process],
    whole_models: Collection[ModelFolder],
    own_pids: Collection[int] = (),
) -> list[Finding]:
    """Check what has to be right once the models are here: ports, Redis, memory.

    Args:
        settings: the stack's settings.
        processes: the process table.
        whole_models: folders of the models that are here and whole.
        own_pids: ids of the processes of the stack that runs here.

    Returns:
        The findings.
    """
    return [
        *host_checks.check_ports(gather_host.ports(processes, own_pids)),
        _redis(settings),
        *_memory(settings, whole_models, own_pids),
    ]


def _redis(settings: StackSettings) -> Finding:
    if settings.starts_redis:
        return host_checks.check_own_redis(host.find_redis_server())
    return host_checks.check_redis(gather_host.redis_error(settings.redis_address()))


def _memory(settings: StackSettings, whole_models: Collection[ModelFolder], own_pids: Collection[int]) -> list[Finding]:
    request = gather_gpu.gpu_request(settings, os.environ)
    if request.wanted is None:
        needed = None if own_pids else needed_on_cpu_mb(settings, whole_models)
        return [host_checks.check_main_memory(hardware.available_memory_bytes() / 1e6, needed)]
    driver = gpu_checks.own_processes(gather_gpu.read_driver(), set(own_pids))
    one = gpu_checks.selected_gpu(request, driver)
    known = None if one is None else one.total_bytes
    total_bytes = known or nvml.gpu_total_bytes(nvml.visible_gpu(settings.gpu_device, os.environ))
    if total_bytes is None and settings.gpu_card_gb is None:
        return [refusal("plan", sentence(preflight.UNKNOWN_GPU_MEMORY))]
    try:
        plan = plan_from_settings(settings, total_bytes)
    except (PlanDoesNotFit, UnknownModelSize) as error:
        return [model_checks.check_plan(f"Memory plan: {error}", {})]
    shares = {"llm": plan.llm, "sentiment": plan.sentiment, "embedding": plan.embedding}
    planned_bytes = sum(share.size_bytes for share in shares.values())
    return [
        model_checks.check_plan(None, {name: share.size_bytes / GIB for name, share in shares.items()}),
        *gpu_checks.check_memory(request, driver, planned_bytes, in_use=gather_gpu.uses_gpu(own_pids)),
    ]


def needed_on_cpu_mb(settings: StackSettings, whole_models: Collection[ModelFolder]) -> float | None:
    """Calculate the main memory that the models take on this CPU.

    Args:
        settings: the stack's settings.
        whole_models: folders of the models that are here and whole.

    Returns:
        Weights in the CPU's precision and vLLM's KV cache, in MB; None if a model is not here.
    """
    if len(whole_models) < len(settings.models):
        return None
    number_bytes = HALF_PRECISION_BYTES if cpu_precision(settings) == "bfloat16" else _FP32_BYTES
    weights = sum(loaded_bytes(model_files.stored_tensors(folder.path), number_bytes) for folder in whole_models)
    return (weights + settings.llm_cpu_kv_gb * GIB) / 1e6


def examine(
    settings: StackSettings,
    processes: Sequence[Process],
    own_pids: Collection[int],
    changed: Mapping[ModelKind, Sequence[Path]],
) -> list[Finding]:
    """Run all checks.

    Args:
        settings: the stack's settings.
        processes: the process table.
        own_pids: ids of the processes of the stack that runs here.
        changed: files of models that differ from those that were fetched, by kind.

    Returns:
        The findings.
    """
    fetches = settings.allow_stand_ins or not settings.hf_hub_offline
    found = models(settings, changed)
    whole = [model.folder for model in found if model.folder is not None and model.fault is None]
    return [
        *machine(settings, own_pids),
        *model_checks.check_models(found, fetches=fetches),
        *before_start(settings, processes, whole, own_pids),
        *host_checks.check_logs(gather_host.logs_error(settings.log_folder, [one.name for one in processes])),
    ]
