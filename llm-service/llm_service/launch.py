"""From settings to the command line of the stock vLLM server. Pure: no file, no socket, no process."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llm_service.settings import LlmSettings
from onecard.gpu.nvml import visible_gpu
from onecard.gpu.plan_settings import GpuShare
from onecard.models.folders import ModelFolder
from onecard.models.sampling_defaults import DEFAULT_TEMPERATURE, DEFAULT_TOP_P
from onecard.web.server import KEEP_ALIVE_SECONDS

PLUGIN = "onecard"
"""Name of our entry points in vLLM's groups."""
PLANNED_BYTES = "ONECARD_LLM_PLANNED_BYTES"
"""Tells the processes behind the launcher what was planned for them, for their metrics. Not a setting."""
STRUCTURED_OUTPUTS = {"backend": "xgrammar", "disable_any_whitespace": True}
"""vLLM has one grammar compiler a process: by itself, that of the first request that needs one. Left to that, a schema
that goes to llguidance makes every later forced tool a 500. JSON may hold blanks between its parts, and a small model
writes them until its tokens are used up."""
_SERVER_MODULE = "vllm.entrypoints.launchers.api_server.entry"
"""vLLM's own entry. The `vllm` command asks for a distribution of that name, which its CPU build is not."""
_LOG_CONFIG = Path(__file__).parent / "on_vllm" / "logging.json"


@dataclass(frozen=True)
class ModelConfig:
    """What the model's `config.json` says."""

    window: int
    """Longest context in tokens."""


@dataclass(frozen=True)
class HostInfo:
    """Where vLLM will run."""

    gpu: bool
    bfloat16: bool
    """The CPU multiplies bfloat16 in hardware."""
    cpus: int
    """Processors this process may use."""


@dataclass(frozen=True)
class LaunchCommand:
    """A process to become."""

    argv: list[str]
    """The first item is the executable's path."""
    environment: dict[str, str]


def window(settings: LlmSettings, facts: ModelConfig) -> int:
    """Longest prompt and answer together, in tokens."""
    return min(settings.max_model_len, facts.window)


def vllm_command(
    settings: LlmSettings,
    folder: ModelFolder,
    facts: ModelConfig,
    machine: HostInfo,
    environment: Mapping[str, str],
    share: GpuShare | None = None,
) -> LaunchCommand:
    """The vLLM server for `settings`, in the environment given.

    Args:
        share: its part of the card; None without a GPU.
    """
    sampling = json.dumps({"temperature": DEFAULT_TEMPERATURE, "top_p": DEFAULT_TOP_P})
    options: list[tuple[str, object]] = [
        ("--host", settings.host),
        ("--port", settings.vllm_port),
        ("--model", folder.path.resolve()),
        ("--max-model-len", window(settings, facts)),
        ("--dtype", _dtype(settings, machine)),
        ("--override-generation-config", sampling),
        ("--scheduling-policy", "priority"),
        ("--max-num-seqs", settings.llm_max_seqs),
        # vLLM counts what runs and what waits together.
        ("--max-num-queued-reqs", settings.llm_max_seqs + settings.llm_queue_requests),
        ("--tool-call-parser", "hermes"),
        ("--structured-outputs-config", json.dumps(STRUCTURED_OUTPUTS)),
        ("--middleware", "llm_service.on_vllm.middleware.VllmMiddleware"),
    ]
    if share:
        options.append(("--gpu-memory-utilization", round(share.fraction, 6)))
    if not machine.gpu:
        options.append(("--distributed-executor-backend", "uni"))
    flags = ["--enable-auto-tool-choice", "--disable-uvicorn-access-log"]
    if _enforce_eager(settings, machine):
        flags.append("--enforce-eager")
    argv = [sys.executable, "-m", _SERVER_MODULE, *flags, "--served-model-name", *folder.accepted_names]
    argv += [text for name, value in options for text in (name, str(value))]
    planned = {PLANNED_BYTES: str(share.size_bytes)} if share else {}
    return LaunchCommand(argv, _environment(settings, machine, environment) | planned)


def _dtype(settings: LlmSettings, machine: HostInfo) -> str:
    if not settings.use_fp16:
        return "float32"
    if machine.gpu:
        return "float16"
    return "bfloat16" if machine.bfloat16 else "float32"


def _enforce_eager(settings: LlmSettings, machine: HostInfo) -> bool:
    return not machine.gpu if settings.llm_eager is None else settings.llm_eager


def _environment(settings: LlmSettings, machine: HostInfo, given: Mapping[str, str]) -> dict[str, str]:
    """`given` with what vLLM must and must not see.

    Our VLLM_PORT means something else to vLLM: the first of the ports it opens for itself, which would be a
    neighbour's. A VLLM_API_KEY would guard some routes a second time, with a key that our callers do not have.
    """
    ours = {"VLLM_PORT", "VLLM_ENABLED", "VLLM_API_KEY"}
    result = {name: value for name, value in given.items() if name not in ours}
    result |= {
        "VLLM_PLUGINS": PLUGIN,
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        # vLLM opens files in the locale's encoding, and they are UTF-8: under another it does not start.
        "PYTHONUTF8": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # At debug level vLLM logs prompts.
        "VLLM_LOGGING_LEVEL": "INFO" if settings.log_level == "debug" else settings.log_level.upper(),
        "VLLM_LOGGING_CONFIG_PATH": str(_LOG_CONFIG),
        # vLLM closes idle connections after 5 s, which callers that pool them find out by a failed request.
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(KEEP_ALIVE_SECONDS),
        # uvicorn's own variable; by default it believes whoever calls from this machine.
        "FORWARDED_ALLOW_IPS": ",".join(settings.trusted_proxies),
    }
    if _enforce_eager(settings, machine):
        # The first request for `logprobs` would compile a graph, for a minute on two cores, while all others wait.
        result["TORCHDYNAMO_DISABLE"] = "1"
    return result | (_gpu(settings, given) if machine.gpu else _cpu(settings, machine))


def _gpu(settings: LlmSettings, given: Mapping[str, str]) -> dict[str, str]:
    """The one card."""
    return {"CUDA_VISIBLE_DEVICES": visible_gpu(settings.gpu_device, given)}


def _cpu(settings: LlmSettings, machine: HostInfo) -> dict[str, str]:
    """A process among others: threads are not pinned to processors, and waiting ones sleep instead of spinning.

    So does the engine: with the model in a process of its own, vLLM's default here, one of the two spins while the
    other computes, and on two cores nothing is left for the server. vLLM insists on that process, since it sets its
    threads there, unless multiprocessing is off; ours are set by the environment. The engine keeps its own process.
    """
    return {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": str(settings.llm_cpu_kv_gb),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(settings.llm_cpu_threads or machine.cpus),
        "OMP_WAIT_POLICY": "PASSIVE",
    }
