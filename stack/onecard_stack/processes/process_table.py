"""The process table: settings → what runs, with what, after what. Pure: it looks at nothing but its arguments.

Whatever starts the parts reads this one table: supervisord here, and any other place where all of them run.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onecard_stack.processes import redis_password
from onecard_stack.settings import LOOPBACK, StackSettings, reachable_url

CALLER_STAGE = 1
"""Stage of the parts that ask others: while they finish what they have accepted, all others work."""
_PRESERVE_ENVIRONMENT = {"SPT_NOENV": "1"}
"""vLLM and Celery rename their processes. This keeps the new name from overwriting what /proc shows of the environment,
by which leftovers are recognised."""


@dataclass(frozen=True)
class Process:
    """One part of the stack."""

    name: str
    argv: tuple[str, ...]
    port: int
    """Port to listen on; 0: it listens nowhere."""
    host: str = LOOPBACK
    """Address to listen on."""
    environment: dict[str, str] = field(default_factory=dict)
    """What this part gets on top of the inherited environment. Holds no secrets: it is written to a file."""
    defaults: dict[str, str] = field(default_factory=dict)
    """The same, but a variable of that name in the environment wins."""
    waits_for: tuple[str, ...] = ()
    """Parts that it waits for by itself before it begins to load."""
    start_order: int = 0
    """Start order: lower first."""
    stop_stage: int = 0
    """Stopping begins with the highest stage. The parts of one are told at the same time, and have ended before the
    next is."""
    stop_seconds: int = 10
    """How long it may take to finish after SIGTERM; then its whole process group gets SIGKILL."""
    model: str | None = None
    """The model that the settings name for it."""
    health: str | None = "/health/ready"
    """Path that answers 200 once it can work; None for Redis, which answers PING."""
    needs_scratch: bool = False
    """When it is killed, temporary files and sockets of it stay: it gets a folder for them that is emptied."""
    heartbeat: Path | None = None
    """File that a part without a port touches while it works."""
    password_file: Path | None = None
    """File with the password of the Redis that is started here, which all parts get."""

    @property
    def url(self) -> str:
        """Where this machine reaches it."""
        return reachable_url(self.host, self.port)


@dataclass(frozen=True)
class HostResources:
    """What the table must know of the machine."""

    cores: int
    redis_server: Path | None = None
    """The Redis binary, if one is to be started."""


def processes(settings: StackSettings, machine: HostResources) -> list[Process]:
    """The parts, in start order: Redis, encoders, the LLM once they are ready (it measures the card), those that call
    them.

    In a pod that is to stop itself when it is idle, its watchdog comes last.
    """
    encoders = [_encoder(kind, settings, machine) for kind in ("sentiment", "embedding")]
    models = [*encoders, _llm(settings, encoders)]
    review = _review(settings, models)
    precompute = [_precompute(name, settings, [*models, review]) for name in ("worker", "schedule")]
    parts = [*models, review, *precompute, _gateway(settings, [*models, review])]
    watchdog = _watchdog(settings, parts)
    if machine.redis_server is None or not settings.starts_redis:
        return [*parts, *watchdog]
    return [_redis(settings, machine.redis_server), *parts, *watchdog]


def _python_command(module: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", module, *arguments)


def _redis(settings: StackSettings, binary: Path) -> Process:
    login = settings.run_folder / redis_password.CONFIG_FILE
    argv = (
        str(binary),
        str(login),
        *("--bind", LOOPBACK),
        *("--port", str(settings.redis_port)),
        *("--save", ""),
        *("--appendonly", "no"),
        *("--maxmemory", f"{settings.redis_memory_mb}mb"),
        # Keys without a time to live are the worker's tasks. All of the cache's have one.
        *("--maxmemory-policy", "volatile-lfu"),
        # Writes nothing there; Redis overwrites its environment with its title, and is recognised by its folder.
        *("--dir", str(settings.run_folder)),
    )
    return Process("redis", argv, settings.redis_port, start_order=10, stop_seconds=5, health=None, password_file=login)


def _offline(settings: StackSettings) -> dict[str, str]:
    """Nothing is fetched at run time, and nothing is reported to anybody."""
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
        # No key guards an encoder: whatever HOST opens to the network, the encoders stay on this machine.
        environment={
            **_offline(settings),
            "HOST": LOOPBACK,
            f"{kind.upper()}_PORT": str(port),
            f"{kind.upper()}_MODEL": model,
        },
        # In a container torch counts the host's cores, not the share it may use, and its threads then fight.
        defaults={"OMP_NUM_THREADS": str(machine.cores)},
        start_order=20,
        stop_seconds=settings.drain_seconds + 5,
        model=model,
    )


def _llm(settings: StackSettings, encoders: Sequence[Process]) -> Process:
    neighbours = ",".join(encoder.url for encoder in encoders)
    own = settings.llm_wait_for if "llm_wait_for" in settings.model_fields_set else None
    return Process(
        "llm",
        _python_command("llm_service"),
        settings.vllm_port,
        settings.host,
        environment={
            **_offline(settings),
            "LLM_MODEL": settings.llm_model,
            "VLLM_PORT": str(settings.vllm_port),
            "LLM_WAIT_FOR": neighbours if own is None else ",".join(own),
            **_PRESERVE_ENVIRONMENT,
        },
        # torch keeps compiled kernels among the temporary files, if nobody tells it better.
        defaults={"TORCHINDUCTOR_CACHE_DIR": str(settings.onecard_home / "compiled")},
        needs_scratch=True,
        waits_for=tuple(encoder.name for encoder in encoders) if own is None else (),
        start_order=30,
        stop_seconds=settings.drain_seconds + 10,
        model=settings.llm_model,
    )


def _service_urls(settings: StackSettings, parts: Sequence[Process]) -> dict[str, str]:
    """Where the parts are: at what the settings name, else here."""
    own = settings.model_dump(include=settings.model_fields_set)
    return {f"{part.name.upper()}_URL": ",".join(own.get(f"{part.name}_url", (part.url,))) for part in parts}


def _review(settings: StackSettings, models: Sequence[Process]) -> Process:
    return Process(
        "review",
        _python_command("review_service"),
        settings.review_port,
        # No key guards it, as none guards an encoder.
        environment={
            "HOST": LOOPBACK,
            "REVIEW_PORT": str(settings.review_port),
            "REVIEW_STORE": settings.review_store,
            **_service_urls(settings, models),
        },
        start_order=35,
        stop_seconds=settings.drain_seconds + 5,
    )


def _precompute(name: str, settings: StackSettings, parts: Sequence[Process]) -> Process:
    """The worker that makes answers ready, and the schedule that tells it when."""
    heartbeat = settings.run_folder / f"{name}.heartbeat"
    return Process(
        name,
        _python_command(f"review_service.{name}"),
        port=0,
        # No key guards the worker's metrics.
        environment={
            "HOST": LOOPBACK,
            "PRECOMPUTE_HEARTBEAT_FILE": str(heartbeat),
            **_service_urls(settings, parts),
            **_PRESERVE_ENVIRONMENT,
        },
        start_order=40,
        stop_stage=CALLER_STAGE,
        # It holds up nobody. A task that is broken off is done again.
        stop_seconds=1,
        health=None,
        heartbeat=heartbeat,
    )


def _gateway(settings: StackSettings, parts: Sequence[Process]) -> Process:
    keys = {"API_KEYS_FILE": str(settings.api_keys_file)} if settings.api_keys_file else {}
    return Process(
        "gateway",
        _python_command("gateway"),
        settings.gateway_port,
        settings.host,
        environment={"GATEWAY_PORT": str(settings.gateway_port), **keys, **_service_urls(settings, parts)},
        start_order=40,
        stop_stage=CALLER_STAGE,
        stop_seconds=settings.drain_seconds + 5,
    )


def _watchdog(settings: StackSettings, parts: Sequence[Process]) -> list[Process]:
    if settings.idle_stop_minutes is None or settings.runpod_pod_id is None:
        return []
    urls = {part.name: part.url for part in parts}
    # Callers reach both; the LLM service is ready after the encoders.
    argv = _python_command("onecard_runpod.watchdog", urls["gateway"], urls["llm"])
    return [Process("watchdog", argv, port=0, start_order=50, stop_stage=CALLER_STAGE, health=None)]
