"""The LLM service on both engines, directly and through the gateway. An engine starts once a session."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support import KEY, Server, serving

STAND_IN = "onecard/standin-qwen2"


@dataclass(frozen=True)
class Target:
    """An engine, and the address at which a test talks to it."""

    engine: str
    """`vllm` or `transformers`."""
    url: str
    server: Server
    """The engine's own process."""
    key: str = KEY

    def sdk(self, key: str | None = None) -> openai.OpenAI:
        """The official client, without its retries."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key or self.key, max_retries=0, timeout=60)

    def http(self) -> httpx.Client:
        """A plain client that sends the key."""
        return httpx.Client(base_url=self.url, headers={"authorization": f"Bearer {self.key}"}, timeout=60)

    def metric(self, vllm_name: str, transformers_name: str, *, without: str = "") -> float:
        """The sum of one of the engine's own metrics over its labels, except where one of them is `without`."""
        name = vllm_name if self.engine == "vllm" else transformers_name
        text = httpx.get(f"{self.server.url}/metrics", headers={"authorization": f"Bearer {self.key}"}).text
        samples = [s for family in text_string_to_metric_families(text) for s in family.samples if s.name == name]
        assert samples, name
        return sum(sample.value for sample in samples if without not in sample.labels.values())


@pytest.fixture(scope="session", params=["vllm", "transformers"])
def engine(request: pytest.FixtureRequest) -> Target:
    """Each engine, directly."""
    server: Server = request.getfixturevalue(request.param)
    return Target(request.param, server.url, server)


@pytest.fixture(scope="session", params=["direct", "gateway"])
def target(request: pytest.FixtureRequest, engine: Target) -> Iterator[Target]:
    """Each engine, directly and through the gateway."""
    with _reached(request.param, engine) as target:
        yield target


@pytest.fixture(scope="session", params=["direct", "gateway"])
def vllm_target(request: pytest.FixtureRequest, vllm: Server) -> Iterator[Target]:
    """vLLM, directly and through the gateway, for what only it can do."""
    with _reached(request.param, Target("vllm", vllm.url, vllm)) as target:
        yield target


@contextmanager
def _reached(way: str, engine: Target) -> Iterator[Target]:
    if way == "direct":
        yield engine
        return
    env = {"LLM_URL": engine.url, "API_KEY": KEY, "CACHE_ENABLED": "false"}
    with serving("gateway", port_variable="GATEWAY_PORT", env=env) as gateway:
        yield Target(engine.engine, gateway.url, engine.server)
