"""The phases, and how the services of each are started."""

import json
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.cache.services import COMPUTED_TEXTS_METRIC, encoder, metric, samples
from bench.command import start_server
from bench.llm.contenders import MODEL as LLM
from bench.memory import resident_bytes
from bench.paths import CLASSIFIER, MODEL
from bench.redis import redis
from bench.servers import Contender, ContenderServer, python_module

ENGINE_METRIC = "onecard_encoder_engine"
STAND_IN = "onecard--standin-qwen2"
"""Folder of the stand-in for the LLM, below the folder of the models."""


@dataclass(frozen=True)
class Phase:
    """What has been built by then. The first has nothing of this project."""

    name: str
    what: str
    ours: bool = True
    vllm: bool = True
    cached: bool = False
    """With Redis, and behind the gateway."""
    ready: bool = False
    """With built engines, and popular answers precomputed."""


PHASES = (
    Phase("before", "Transformers pipelines in FP32 in one process, one text at a time, no cache", ours=False),
    Phase("phase 1", "services in half precision that batch; the LLM on Transformers, in batches", vllm=False),
    Phase("phase 1 + vLLM", "the same, the LLM on vLLM"),
    Phase("phase 2", "with the caches, Redis, and the gateway in front", cached=True),
    Phase(
        "phase 3", "with built engines where they are faster, and popular answers precomputed", cached=True, ready=True
    ),
)


@dataclass
class RunningPhase:
    """The servers of a phase."""

    phase: Phase
    urls: dict[str, str] = field(default_factory=dict)
    """Where requests to each service go."""
    servers: list[ContenderServer] = field(default_factory=list)

    def resident_mb(self) -> float:
        """Add up the resident memory of all processes. What they share counts for each of them."""
        return sum(resident_bytes(server.pid) for server in self.servers) / 1e6

    def computed_texts(self) -> float | None:
        """Count the texts that the encoders' models have processed; None where they do not count."""
        return sum(metric(server, COMPUTED_TEXTS_METRIC) for server in self._encoders()) if self.phase.ours else None

    def engines(self) -> list[str]:
        """Say what runs the encoders, with the library's version and the precision."""
        labels = [sample.labels for one in self._encoders() for sample in samples(one, ENGINE_METRIC)]
        return [f"{each['engine']} {each['precision']}" for each in labels]

    def _encoders(self) -> list[ContenderServer]:
        return [one for one in self.servers if one.contender.name.endswith(("-sentiment", "-embedding"))]


def start(stack: ExitStack, phase: Phase, models: Path, folder: Path, reviews: list[dict[str, str]]) -> RunningPhase:
    """Start the services of a phase.

    Args:
        stack: stops them.
        phase: which ones.
        models: folder with the stand-in for the LLM.
        folder: for the stored reviews; empty.
        reviews: what the first phase searches; the others get theirs by their API.

    Returns:
        The running services.

    Raises:
        ServerFailed: one did not start.
    """
    running = RunningPhase(phase)
    if not phase.ours:
        (folder / "reviews.json").write_text(json.dumps(reviews, ensure_ascii=False))
        _start(stack, running, _before(models, folder / "reviews.json"), *("llm", "sentiment", "embedding", "review"))
        return running
    settings = {"CACHE_ENABLED": str(phase.cached).lower()}
    if phase.cached:
        settings["REDIS_PORT"] = str(_start(stack, running, redis()).port)
    engines = {"MODEL_CACHE_PATH": str(MODEL.parent), "ENCODER_ENGINE": "auto" if phase.ready else "torch"}
    for kind in ("sentiment", "embedding"):
        _start(stack, running, encoder(kind, "strategy", settings | engines), kind)
    on_stand_in = {"MODEL_CACHE_PATH": str(models), "LLM_MODEL": LLM, "VLLM_ENABLED": str(phase.vllm).lower()}
    on_stand_in |= {"LLM_CPU_THREADS": "1", "USE_GPU": "false"}  # A core for the encoders, as where a card computes.
    _module(stack, running, "llm", "llm_service", "VLLM_PORT", on_stand_in)
    addresses = {f"{kind.upper()}_URL": url for kind, url in running.urls.items()}
    reviewing = {**settings, **addresses, "REVIEW_STORE": str(folder / "reviews")}
    _module(stack, running, "review", "review_service", "REVIEW_PORT", reviewing)
    addresses["REVIEW_URL"] = running.urls["review"]
    if phase.ready:
        worker = python_module(
            "strategy-worker", "its worker", "review_service.worker", "PRECOMPUTE_METRICS_PORT", reviewing | addresses
        )
        _start(stack, running, replace(worker, health="/metrics"))
    if phase.cached:
        _module(stack, running, "gateway", "gateway", "GATEWAY_PORT", settings | addresses)
        running.urls = dict.fromkeys(running.urls, running.urls["gateway"])
    return running


def _module(
    stack: ExitStack, running: RunningPhase, kind: str, called: str, port: str, settings: dict[str, str]
) -> None:
    _start(stack, running, python_module(f"strategy-{kind}", f"the {kind} service", called, port, settings), kind)


def _before(models: Path, reviews: Path) -> Contender:
    given = [str(CLASSIFIER), str(MODEL), str(models / STAND_IN), str(reviews)]
    command = [sys.executable, "-m", "bench.strategy.before", *given]
    return Contender("strategy-before", "the strategy's start", lambda port: [*command, str(port)], "/health", path="")


def _start(stack: ExitStack, running: RunningPhase, contender: Contender, *kinds: str) -> ContenderServer:
    server = start_server(stack, contender)
    running.servers.append(server)
    running.urls |= dict.fromkeys(kinds, f"http://127.0.0.1:{server.port}")
    return server
