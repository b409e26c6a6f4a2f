"""Fixtures that several suites share. A server starts once a session, however many tests use it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import KEY, LLM, VLLM_START_SECONDS, Server, free_port, serving

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def model_cache() -> Path:
    """The folder that holds the three stand-ins, trained now if they are not there yet.

    ONECARD_TEST_MODELS names another folder, which is taken as it is.
    """
    if given := os.environ.get("ONECARD_TEST_MODELS"):
        return Path(given).resolve()
    folder = ROOT / ".onecard" / "models"
    command = [sys.executable, "-m", "standins", "train", "--out", str(folder)]
    subprocess.run(command, check=True, timeout=900)
    return folder


@pytest.fixture(scope="session")
def encoder_env(model_cache: Path) -> dict[str, str]:
    """Environment of an encoder service on the stand-ins."""
    return {"MODEL_CACHE_PATH": str(model_cache), "OMP_NUM_THREADS": "2"}


@pytest.fixture(scope="session")
def sentiment(encoder_env: dict[str, str]) -> Iterator[Server]:
    """A running sentiment-service."""
    with serving("sentiment_service", port_variable="SENTIMENT_PORT", env=encoder_env) as server:
        yield server


@pytest.fixture(scope="session")
def embedding(encoder_env: dict[str, str]) -> Iterator[Server]:
    """A running embedding-service."""
    with serving("embedding_service", port_variable="EMBEDDING_PORT", env=encoder_env) as server:
        yield server


@pytest.fixture(scope="session")
def llm_env(model_cache: Path) -> dict[str, str]:
    """Environment of an LLM service on the stand-in, on the CPU, with a key."""
    return {
        "MODEL_CACHE_PATH": str(model_cache),
        "LLM_MODEL": LLM,
        "API_KEY": KEY,
        "USE_GPU": "false",
        "LLM_EAGER": "true",
        "LLM_CPU_KV_GB": "1",
    }


@pytest.fixture(scope="session")
def vllm(llm_env: dict[str, str]) -> Iterator[Server]:
    """A running LLM service on vLLM."""
    with serving("llm_service", port_variable="VLLM_PORT", env=llm_env, ready_within=VLLM_START_SECONDS) as server:
        yield server


@pytest.fixture(scope="session")
def transformers(llm_env: dict[str, str]) -> Iterator[Server]:
    """A running LLM service on the Transformers engine."""
    env = {**llm_env, "VLLM_ENABLED": "false"}
    with serving("llm_service", port_variable="VLLM_PORT", env=env) as server:
        yield server


@pytest.fixture(scope="session")
def gateway(sentiment: Server, embedding: Server) -> Iterator[Server]:
    """A running gateway in front of both encoders; no LLM service behind it."""
    env = {"SENTIMENT_URL": sentiment.url, "EMBEDDING_URL": embedding.url, "LLM_URL": f"http://127.0.0.1:{free_port()}"}
    with serving("gateway", port_variable="GATEWAY_PORT", env=env) as server:
        yield server
