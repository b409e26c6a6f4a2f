"""The relays that are compared, each in front of the same upstream."""

import json
import sys
from collections.abc import Callable

from bench.gateway import nginx
from bench.gateway.requests import KEY, MODEL, PATH
from bench.paths import WORK
from bench.peers import LITELLM
from bench.servers import Contender
from gateway.keys.key_ring import Key, hash_of, render_keys

GATEWAY = "onecard"
UNLIMITED = "no-limits"
RELAYS = ("nginx", "bare", "litellm", UNLIMITED, GATEWAY)
_COMMAND = [sys.executable, "-m", "gateway"]
UNREACHED_LIMIT = 10**9
"""Requests and tokens a minute of the key: counted for every request, and never reached."""


def upstream() -> Contender:
    """What answers at once; also called without a relay."""
    if nginx.program():
        return Contender("direct", f"the upstream itself: nginx {nginx.version()}", nginx.canned, "/health", PATH)
    return Contender("direct", "the upstream itself: a protocol server of 100 lines", canned(1, 0), None, PATH)


def canned(chunks: int, milliseconds: float) -> Callable[[int], list[str]]:
    """The command of our own upstream, from its port."""
    module = [sys.executable, "-m", "bench.gateway.canned"]
    return lambda port: [*module, str(port), str(chunks), str(milliseconds)]


def relay_by_nginx(upstream_port: int) -> Contender:
    """Describe nginx with pooled connections."""
    what = f"nginx {nginx.version()}, one worker, proxy_pass with keep-alive"
    return Contender("nginx", what, lambda port: nginx.relay(port, upstream_port), "/health", PATH)


def bare(upstream_port: int) -> Contender:
    """The bare relay."""
    command = [sys.executable, "-m", "bench.gateway.bare", f"http://127.0.0.1:{upstream_port}"]
    what = "a bare aiohttp relay: Starlette under uvicorn, and nothing else"
    return Contender("bare", what, lambda port: [*command, str(port)], "/health", PATH)


def litellm(upstream_port: int) -> Contender:
    """LiteLLM's proxy as its documentation sets it up for production, without a database."""
    config = {
        "model_list": [
            {
                "model_name": MODEL,
                "litellm_params": {
                    "model": f"openai/{MODEL}",
                    "api_base": f"http://127.0.0.1:{upstream_port}/v1",
                    "api_key": "none",
                },
            }
        ],
        "general_settings": {"master_key": KEY},
        "litellm_settings": {"request_timeout": 600, "set_verbose": False, "json_logs": True},
    }
    path = WORK / "litellm.json"

    def command(port: int) -> list[str]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(config))  # JSON is YAML.
        where = ["--host", "127.0.0.1", "--port", str(port)]
        return [LITELLM.program("litellm"), "--config", str(path), *where, "--num_workers", "1"]

    return Contender(
        "litellm",
        f"LiteLLM's proxy {LITELLM.version()}, one worker, its documentation's settings for production, no database",
        command,
        "/health/liveliness",
        PATH,
        environment=lambda port: {
            "LITELLM_LOG": "ERROR",
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        },
    )


def ours(upstream_port: int, redis_port: int) -> Contender:
    """This project's gateway with a key of a file, which has limits."""
    key = Key(
        name="bench",
        sha256=hash_of(KEY.encode()),
        requests_per_minute=UNREACHED_LIMIT,
        tokens_per_minute=UNREACHED_LIMIT,
    )
    keys = WORK / "keys.json"

    def command(port: int) -> list[str]:
        keys.parent.mkdir(parents=True, exist_ok=True)
        keys.touch(mode=0o600)
        keys.write_bytes(render_keys([key]))
        return _COMMAND

    return Contender(
        GATEWAY,
        "this project's gateway, one worker; a key from a file, its limits, metrics and logs on, the cache off",
        command,
        "/health/ready",
        PATH,
        environment=lambda port: {
            **_settings(port, upstream_port),
            "API_KEYS_FILE": str(keys),
            "REDIS_PORT": str(redis_port),
        },
    )


def without_limits(upstream_port: int) -> Contender:
    """This project's gateway with one key for all, which has none."""
    return Contender(
        UNLIMITED,
        "the same with API_KEY alone: no limits, and nothing asked of Redis",
        lambda port: _COMMAND,
        "/health/ready",
        PATH,
        environment=lambda port: {**_settings(port, upstream_port), "API_KEY": KEY},
    )


def _settings(port: int, upstream_port: int) -> dict[str, str]:
    url = f"http://127.0.0.1:{upstream_port}"
    services = {"LLM_URL": url, "SENTIMENT_URL": url, "EMBEDDING_URL": url, "REVIEW_URL": url}
    return {**services, "CACHE_ENABLED": "false", "GATEWAY_PORT": str(port)}


def relays(names: list[str], upstream_port: int, redis_port: int) -> list[Contender]:
    """Those of `names` that are relays, and that this machine has."""
    made = {
        "nginx": lambda: relay_by_nginx(upstream_port),
        "bare": lambda: bare(upstream_port),
        "litellm": lambda: litellm(upstream_port),
        UNLIMITED: lambda: without_limits(upstream_port),
        GATEWAY: lambda: ours(upstream_port, redis_port),
    }
    return [made[name]() for name in names if name in made and (name != "nginx" or nginx.program())]
