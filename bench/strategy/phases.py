"""The phases, and how the services of each are started."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from bench.command import MODELS
from bench.llm import ON_A_CORE
from bench.paths import CLASSIFIER, MODEL
from bench.servers import BERT_BASE, COMPUTED_TEXTS_METRIC, Contender, ContenderServer, Servers, redis

ENGINE_METRIC = "onecard_encoder_engine"
STAND_IN = "onecard--standin-qwen2"
"""Folder of the stand-in for the LLM, below the folder of the models."""
KINDS = ("llm", "sentiment", "embedding", "review")


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
    urls: dict[str, str]
    """Where requests to each service go."""
    servers: list[ContenderServer] = field(default_factory=list)

    def resident_mb(self) -> float:
        """Add up the resident memory of all processes. What they share counts for each of them."""
        return sum(server.resident_mb() for server in self.servers)

    def computed_texts(self) -> float | None:
        """Count the texts that the encoders' models have processed; None where they do not count."""
        return sum(server.metric(COMPUTED_TEXTS_METRIC) for server in self._encoders()) if self.phase.ours else None

    def engines(self) -> list[str]:
        """Say what runs the encoders, with the library's version and the precision."""
        labels = [sample.labels for one in self._encoders() for sample in one.samples(ENGINE_METRIC)]
        return [f"{each['engine']} {each['precision']}" for each in labels]

    def _encoders(self) -> list[ContenderServer]:
        return [one for one in self.servers if one.contender.name.endswith(("-sentiment", "-embedding"))]


def start(servers: Servers, phase: Phase, folder: Path, reviews: list[dict[str, str]]) -> RunningPhase:
    """Start the services of a phase. Only the first is given its `reviews`; the others get theirs by their API."""
    if not phase.ours:
        (folder / "reviews.json").write_text(json.dumps(reviews, ensure_ascii=False))
        server = servers.start(_before(folder / "reviews.json"))
        return RunningPhase(phase, dict.fromkeys(KINDS, server.address), servers.running)
    settings = {"CACHE_ENABLED": str(phase.cached).lower(), "REVIEW_STORE": str(folder / "reviews")}
    if phase.cached:
        settings["REDIS_PORT"] = str(servers.start(redis()).port)
    engine = {"MODEL_CACHE_PATH": str(MODEL.parent), "ENCODER_ENGINE": "auto" if phase.ready else "torch", **BERT_BASE}
    on_stand_in = {"MODEL_CACHE_PATH": str(MODELS), "VLLM_ENABLED": str(phase.vllm).lower(), **ON_A_CORE}
    servers.start_service("sentiment", settings | engine)
    servers.start_service("embedding", settings | engine)
    servers.start_service("llm", on_stand_in)
    servers.start_service("review", settings)
    urls = {kind: servers.of(kind).address for kind in KINDS}
    if phase.ready:
        servers.start_service("worker", settings)
    if phase.cached:
        urls = dict.fromkeys(KINDS, servers.start_service("gateway", settings).address)
    return RunningPhase(phase, urls, servers.running)


def _before(reviews: Path) -> Contender:
    given = [str(CLASSIFIER), str(MODEL), str(MODELS / STAND_IN), str(reviews)]
    command = [sys.executable, "-m", "bench.strategy.before", *given]
    return Contender("strategy-before", "the strategy's start", lambda port: [*command, str(port)], "/health", path="")
