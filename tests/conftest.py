"""Fixtures that several suites share. A server starts once a session, however many tests use it."""

import functools
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import httpx
import httpx2
import hypothesis
import pytest
from xdist.remote import Producer

from onecard.models.folders import STAND_INS, folder_name, read_manifest
from tests import distribution
from tests.shallow_models import shallow_models
from tests.shared.cache.support import RedisProcess, running_redis
from tests.support import KEY, LLM, VLLM_START_SECONDS, Server, free_port, serving

ROOT = Path(__file__).parent.parent

# Hypothesis's deadline for one example is a wall clock's, and two workers share two cores with real servers.
hypothesis.settings.register_profile("onecard", deadline=None)
hypothesis.settings.load_profile("onecard")


# Whoever makes a client has it read all certificates of the machine, in 20 ms of processor time, and nearly every
# request of these tests has a client of its own. None speaks TLS: one reading is enough for all of them.
for _transports in (httpx._transports.default, httpx2._transports.default):
    _transports.create_ssl_context = functools.cache(_transports.create_ssl_context)


# A thousand streams are two thousand sockets of a gateway, which inherits this; a shell's 1,024 are too few.
_soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
if _soft < 10_000:
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(10_000, _hard) if _hard > 0 else 10_000, _hard))


# They take minutes and what not every machine has: 'make test-compose' asks for a Docker engine, 'make test-clients'
# installs other people's clients.
collect_ignore = [suite for suite in ("compose", "clients") if not os.environ.get(f"ONECARD_TEST_{suite.upper()}")]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> distribution.UnitScheduling | None:
    """Ours, in place of `-n`'s own."""
    return distribution.UnitScheduling(config, log) if config.getvalue("dist") == "load" else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first; all else stays as pytest has it."""
    items.sort(key=lambda item: distribution.place_of(item.nodeid))


@pytest.fixture(scope="session")
def model_cache() -> Path:
    """The folder that holds the three stand-ins; 'make test' has trained them. ONECARD_TEST_MODELS names another."""
    folder = Path(os.environ.get("ONECARD_TEST_MODELS", ROOT / ".onecard" / "models")).resolve()
    missing = [name for name in STAND_INS.values() if read_manifest(folder / folder_name(name)) is None]
    if missing:
        pytest.exit(
            f"{folder} lacks {', '.join(missing)}. Run 'make test', or 'python -m standins train --out {folder}'."
        )
    return folder


@pytest.fixture(scope="session")
def session_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """A Redis of this test process's own, which its shared servers keep their cache in."""
    with running_redis(tmp_path_factory.mktemp("redis")) as redis:
        yield redis


@pytest.fixture(scope="session")
def shallow_cache(model_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three stand-ins, the encoders with two layers left."""
    return shallow_models(model_cache, tmp_path_factory.mktemp("shallow"))


@pytest.fixture(scope="session")
def encoder_env(shallow_cache: Path) -> dict[str, str]:
    """Environment of an encoder service that starts soon and computes everything."""
    return {"MODEL_CACHE_PATH": str(shallow_cache), "OMP_NUM_THREADS": "2", "CACHE_ENABLED": "false"}


@pytest.fixture(scope="session")
def caching_env(encoder_env: dict[str, str], session_redis: RedisProcess) -> dict[str, str]:
    """Environment of an encoder service with a cache, as its users have it."""
    return {**encoder_env, "CACHE_ENABLED": "true", "REDIS_PORT": str(session_redis.port)}


@pytest.fixture(scope="session")
def whole_env(caching_env: dict[str, str], model_cache: Path) -> dict[str, str]:
    """Environment of an encoder service on the whole stand-ins."""
    return {**caching_env, "MODEL_CACHE_PATH": str(model_cache)}


@pytest.fixture(scope="session")
def sentiment(whole_env: dict[str, str]) -> Iterator[Server]:
    """A running sentiment-service."""
    with serving("sentiment_service", port_variable="SENTIMENT_PORT", env=whole_env) as server:
        yield server


@pytest.fixture(scope="session")
def embedding(whole_env: dict[str, str]) -> Iterator[Server]:
    """A running embedding-service."""
    with serving("embedding_service", port_variable="EMBEDDING_PORT", env=whole_env) as server:
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
    nobody = f"http://127.0.0.1:{free_port()}"
    urls = {"SENTIMENT_URL": sentiment.url, "EMBEDDING_URL": embedding.url, "LLM_URL": nobody, "REVIEW_URL": nobody}
    env = {**urls, "CACHE_ENABLED": "false"}
    with serving("gateway", port_variable="GATEWAY_PORT", env=env) as server:
        yield server
