"""The process table: which processes run for given settings, with which variables and in which order. Pure.

supervisord and the pod's image start what this table says; a test compares it with `compose.yaml`.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onecard_stack.processes import redis_password
from onecard_stack.settings import LOOPBACK, StackSettings, reachable_url

CALLER_STAGE = 1
"""Stage of the processes that call others. They stop first: to finish their requests, they need the others."""
_PRESERVE_ENVIRONMENT = {"SPT_NOENV": "1"}
"""vLLM and Celery change their process titles. This keeps the title from overwriting the environment in /proc, by which
orphans are recognised."""


@dataclass(frozen=True)
class Process:
    """One process of the stack."""

    name: str
    argv: tuple[str, ...]
    port: int
    """Port to listen on; 0: none."""
    host: str = LOOPBACK
    """Address to listen on."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables added to the inherited environment. Holds no secrets: it is written to a file."""
    defaults: dict[str, str] = field(default_factory=dict)
    """The same, but a variable of that name in the inherited environment takes precedence."""
    waits_for: tuple[str, ...] = ()
    """Names of the processes that it waits for, by itself, before it loads."""
    start_order: int = 0
    """Lower ones start first."""
    stop_stage: int = 0
    """The highest stage stops first. Processes of a stage get SIGTERM together, and have ended before the next stage
    begins."""
    stop_seconds: int = 10
    """How long it may take after SIGTERM, before its process group gets SIGKILL."""
    model: str | None = None
    """Name of its model, as the settings give it."""
    health: str | None = "/health/ready"
    """Path that answers 200 once it is ready; None for Redis, which answers PING."""
    needs_scratch: bool = False
    """It leaves temporary files and sockets behind when killed, so it gets a folder that is emptied at each start."""
    heartbeat: Path | None = None
    """File that a process without a port touches while it works."""
    password_file: Path | None = None
    """File with the password of the Redis that the stack starts."""

    @property
    def url(self) -> str:
        """URL under which this machine reaches it."""
        return reachable_url(self.host, self.port)


@dataclass(frozen=True)
class HostResources:
    """What the table needs to know about the machine."""

    cores: int
    """Cores that the processes may use."""
    redis_server: Path | None = None
    """Path of a Redis binary; None: there is none, and no Redis is started."""


def processes(settings: StackSettings, machine: HostResources) -> list[Process]:
    """Make the process table.

    Args:
        settings: the stack's settings.
        machine: the machine that it runs on.

    Returns:
        The processes in start order: Redis, the encoders, the LLM (which waits for them, because vLLM measures free GPU
        memory when it starts), and the services that call these.
    """
    encoders = [_encoder(kind, settings, machine) for kind in ("sentiment", "embedding")]
    models = [*encoders, _llm(settings, encoders)]
    review = _review(settings, models)
    precompute = [_precompute(name, settings, [*models, review]) for name in ("worker", "schedule")]
    ordered = [*models, review, *precompute, _gateway(settings, [*models, review])]
    if machine.redis_server is None or not settings.starts_redis:
        return ordered
    return [_redis(settings, machine.redis_server), *ordered]


def _python_command(module: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", module, *arguments)


def _redis(settings: StackSettings, binary: Path) -> Process:
    config = settings.run_folder / redis_password.CONFIG_FILE
    argv = (
        str(binary),
        str(config),
        *("--bind", LOOPBACK),
        *("--port", str(settings.redis_port)),
        *("--save", ""),
        *("--appendonly", "no"),
        *("--maxmemory", f"{settings.redis_memory_mb}mb"),
        # Keys without a time to live are the worker's tasks, and must not be evicted. All keys of the cache have one.
        *("--maxmemory-policy", "volatile-lfu"),
        # Redis writes nothing there, but is recognised by this folder: its title overwrites its environment.
        *("--dir", str(settings.run_folder)),
    )
    return Process(
        "redis", argv, settings.redis_port, start_order=10, stop_seconds=5, health=None, password_file=config
    )


def _offline(settings: StackSettings) -> dict[str, str]:
    """Variables that forbid downloads at run time and usage statistics."""
    return {
        "MODEL_CACHE_PATH": str(settings.model_cache_path),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _encoder(kind: str, settings: StackSettings, machine: HostResources) -> Process:
    port, model = {
        "sentiment": (settings.sentiment_port, settings.sentiment_model),
        "embedding": (settings.embedding_port, settings.embedding_model),
    }[kind]
    return Process(
        kind,
        _python_command(f"{kind}_service"),
        port,
        # The encoders ask for no API key, so they listen on loopback whatever HOST is.
        environment={
            **_offline(settings),
            "HOST": LOOPBACK,
            f"{kind.upper()}_PORT": str(port),
            f"{kind.upper()}_MODEL": model,
        },
        # In a container torch counts the host's cores instead of its quota, and starts too many threads.
        defaults={"OMP_NUM_THREADS": str(machine.cores)},
        start_order=20,
        stop_seconds=settings.drain_seconds + 5,
        model=model,
    )


def _llm(settings: StackSettings, encoders: Sequence[Process]) -> Process:
    encoder_urls = ",".join(encoder.url for encoder in encoders)
    configured = settings.llm_wait_for if "llm_wait_for" in settings.model_fields_set else None
    return Process(
        "llm",
        _python_command("llm_service"),
        settings.vllm_port,
        settings.host,
        environment={
            **_offline(settings),
            "LLM_MODEL": settings.llm_model,
            "VLLM_PORT": str(settings.vllm_port),
            "LLM_WAIT_FOR": encoder_urls if configured is None else ",".join(configured),
            **_PRESERVE_ENVIRONMENT,
        },
        # Without this, torch keeps compiled kernels in the temporary folder, which is emptied at each start.
        defaults={"TORCHINDUCTOR_CACHE_DIR": str(settings.onecard_home / "compiled")},
        needs_scratch=True,
        waits_for=tuple(encoder.name for encoder in encoders) if configured is None else (),
        start_order=30,
        stop_seconds=settings.drain_seconds + 10,
        model=settings.llm_model,
    )


def _service_urls(settings: StackSettings, services: Sequence[Process]) -> dict[str, str]:
    """Variables with the services' URLs: those of the settings, else those in this stack."""
    configured = settings.model_dump(include=settings.model_fields_set)
    return {
        f"{service.name.upper()}_URL": ",".join(configured.get(f"{service.name}_url", (service.url,)))
        for service in services
    }


def _review(settings: StackSettings, models: Sequence[Process]) -> Process:
    return Process(
        "review",
        _python_command("review_service"),
        settings.review_port,
        # It asks for no API key either.
        environment={
            "HOST": LOOPBACK,
            "REVIEW_PORT": str(settings.review_port),
            "REVIEW_STORE": settings.review_store,
            **_service_urls(settings, models),
        },
        start_order=35,
        stop_seconds=settings.drain_seconds + 5,
    )


def _precompute(name: str, settings: StackSettings, services: Sequence[Process]) -> Process:
    """The worker that precomputes responses, or the schedule that starts its rounds."""
    heartbeat = settings.run_folder / f"{name}.heartbeat"
    return Process(
        name,
        _python_command(f"review_service.{name}"),
        port=0,
        # The worker's metrics need no API key.
        environment={
            "HOST": LOOPBACK,
            **({"PRECOMPUTE_METRICS_PORT": "8005"} if settings.monitoring and name == "worker" else {}),
            "PRECOMPUTE_HEARTBEAT_FILE": str(heartbeat),
            **_service_urls(settings, services),
            **_PRESERVE_ENVIRONMENT,
        },
        start_order=40,
        stop_stage=CALLER_STAGE,
        # No client waits for it, and an interrupted task is repeated.
        stop_seconds=1,
        health=None,
        heartbeat=heartbeat,
    )


def _gateway(settings: StackSettings, services: Sequence[Process]) -> Process:
    keys = {"API_KEYS_FILE": str(settings.api_keys_file)} if settings.api_keys_file else {}
    return Process(
        "gateway",
        _python_command("gateway"),
        settings.gateway_port,
        settings.host,
        environment={"GATEWAY_PORT": str(settings.gateway_port), **keys, **_service_urls(settings, services)},
        start_order=40,
        stop_stage=CALLER_STAGE,
        stop_seconds=settings.drain_seconds + 5,
    )
