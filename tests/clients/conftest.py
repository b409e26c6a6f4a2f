"""A gateway with a key, and all models behind it, for clients that are not ours."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support import KEY, LLM, Server, free_port, serving

EMBEDDING = "jhgan/ko-sbert-multitask"


@dataclass(frozen=True)
class ClientTarget:
    """Where clients find it."""

    url: str

    @property
    def environment(self) -> dict[str, str]:
        """What the clients' scripts read."""
        return {"ONECARD_URL": self.url, "ONECARD_KEY": KEY, "ONECARD_LLM": LLM, "ONECARD_EMBEDDING": EMBEDDING}


@pytest.fixture(scope="session")
def stack(vllm: Server, sentiment: Server, embedding: Server) -> Iterator[ClientTarget]:
    """vLLM and both encoders behind a gateway; answers are computed anew, so that each client meets the engine."""
    urls = {"LLM_URL": vllm.url, "SENTIMENT_URL": sentiment.url, "EMBEDDING_URL": embedding.url}
    env = {**urls, "REVIEW_URL": f"http://127.0.0.1:{free_port()}", "API_KEY": KEY, "CACHE_ENABLED": "false"}
    with serving("gateway", port_variable="GATEWAY_PORT", env=env) as server:
        yield ClientTarget(server.url)
