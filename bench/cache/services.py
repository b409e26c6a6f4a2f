"""The services under test: both encoders in BERT-base's size, an LLM that answers at once, the gateway, Redis."""

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from bench.command import start_server
from bench.gateway.contenders import canned
from bench.paths import CLASSIFIER, MODEL
from bench.redis import redis
from bench.servers import Contender, ContenderServer

STREAM_CHUNKS = 32
"""Chunks of the canned LLM's streams, sent at once."""
COMPUTED_TEXTS_METRIC = "onecard_batch_texts_sum"
"""An encoder's counter of texts that its model has processed."""


@dataclass(frozen=True)
class CachedServices:
    """A gateway and the encoders behind it."""

    gateway: ContenderServer
    embedding: ContenderServer
    sentiment: ContenderServer

    def computed_texts(self) -> float:
        """Count the texts that the encoders' models have processed so far."""
        return sum(metric(server, COMPUTED_TEXTS_METRIC) for server in (self.embedding, self.sentiment))


def samples(server: ContenderServer, name: str) -> list[Sample]:
    """Read one of a server's metrics, for all of its labels."""
    with urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=30) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return [sample for family in families for sample in family.samples if sample.name == name]


def metric(server: ContenderServer, name: str) -> float:
    """Read one of a server's metrics, summed over its labels."""
    return sum(sample.value for sample in samples(server, name))


def encoder(kind: str, name: str, settings: dict[str, str]) -> Contender:
    """Describe an encoder. `kind` is `embedding` or `sentiment`."""
    return Contender(
        f"{name}-{kind}",
        f"the {kind} service on BERT-base's shape, {name}",
        lambda port: [sys.executable, "-m", f"{kind}_service"],
        "/health/ready",
        environment=lambda port: {
            "EMBEDDING_MODEL": str(MODEL),
            "SENTIMENT_MODEL": str(CLASSIFIER),
            f"{kind.upper()}_PORT": str(port),
            **settings,
        },
    )


def gateway(name: str, urls: dict[str, str], settings: dict[str, str]) -> Contender:
    """Describe the gateway in front of the services at `urls`."""
    return Contender(
        f"{name}-gateway",
        f"the gateway, {name}",
        lambda port: [sys.executable, "-m", "gateway"],
        "/health/ready",
        path="",
        environment=lambda port: {**urls, "GATEWAY_PORT": str(port), **settings},
    )


def start(stack: ExitStack, *, cached: bool) -> CachedServices:
    """Start all services, with Redis and caches if `cached`. `stack` stops them."""
    name = "cached" if cached else "uncached"
    settings = {"CACHE_ENABLED": str(cached).lower()}
    if cached:
        settings["REDIS_PORT"] = str(start_server(stack, redis()).port)
    llm = start_server(stack, Contender(f"{name}-llm", "a canned LLM", canned(STREAM_CHUNKS, 0), None))
    embedding, sentiment = (start_server(stack, encoder(kind, name, settings)) for kind in ("embedding", "sentiment"))
    urls = {
        f"{kind}_URL": f"http://127.0.0.1:{server.port}"
        for kind, server in (("LLM", llm), ("EMBEDDING", embedding), ("SENTIMENT", sentiment))
    }
    return CachedServices(start_server(stack, gateway(name, urls, settings)), embedding, sentiment)
