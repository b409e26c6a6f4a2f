"""The relays that are compared, each in front of the same upstream."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from bench.canned import MODEL, PATH, RESPONSE_BODY
from bench.gateway.load import KEY
from bench.paths import WORK
from bench.peers import LITELLM
from bench.servers import Contender, canned, service
from gateway.keys.key_ring import Key, hash_of, render_keys

GATEWAY = "onecard"
UNLIMITED = "no-limits"
RELAYS = ("nginx", "bare", "litellm", UNLIMITED, GATEWAY)
UNREACHED_LIMIT = 10**9
"""Requests and tokens a minute of the key: counted for every request, and never reached."""
_NGINX = """daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    default_type application/json;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {upstream}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ {answer} }}
    }}
}}
"""
_UPSTREAM = "upstream canned {{ server 127.0.0.1:{port}; keepalive 512; keepalive_requests 1000000000; }}"
_RELAY = 'proxy_pass http://canned; proxy_http_version 1.1; proxy_set_header Connection "";'


def nginx_program() -> str | None:
    """Find nginx's binary, also in Debian's folder that is not in a user's PATH."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def _nginx(name: str, what: str, answer: str, upstream: str = "") -> Contender:
    program = nginx_program() or "nginx"
    told = subprocess.run([program, "-v"], capture_output=True, text=True).stderr
    folder: Path = WORK / f"nginx-{name}"

    def command(port: int) -> list[str]:
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "nginx.conf"
        config.write_text(_NGINX.format(folder=folder, port=port, upstream=upstream, answer=answer))
        return [program, "-p", str(folder), "-c", str(config), "-e", "stderr"]

    return Contender(name, what.format(told.strip().rpartition("/")[2]), command, "/health", PATH)


def upstream() -> Contender:
    """What answers at once; also called without a relay."""
    if nginx_program():
        return _nginx("direct", "the upstream itself: nginx {}", f"return 200 '{RESPONSE_BODY.decode()}';")
    command = canned(1).command
    return Contender("direct", "the upstream itself: a protocol server of 100 lines", command, None, PATH)


def relay_by_nginx(upstream_port: int) -> Contender:
    """Describe nginx with pooled connections."""
    what = "nginx {}, one worker, proxy_pass with keep-alive"
    return _nginx("nginx", what, _RELAY, _UPSTREAM.format(port=upstream_port))


def bare(upstream_port: int) -> Contender:
    """The bare relay."""
    command = [sys.executable, "-m", "bench.gateway.bare", f"http://127.0.0.1:{upstream_port}"]
    what = "a bare aiohttp relay: Starlette under uvicorn, and nothing else"
    return Contender("bare", what, lambda port: [*command, str(port)], "/health", PATH)


def litellm(upstream_port: int) -> Contender:
    """LiteLLM's proxy as its documentation sets it up for production, without a database."""
    base = f"http://127.0.0.1:{upstream_port}/v1"
    called = {"model": f"openai/{MODEL}", "api_base": base, "api_key": "none"}
    config = {
        "model_list": [{"model_name": MODEL, "litellm_params": called}],
        "general_settings": {"master_key": KEY},
        "litellm_settings": {"request_timeout": 600, "set_verbose": False, "json_logs": True},
    }
    path = WORK / "litellm.json"

    def command(port: int) -> list[str]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(config))  # JSON is YAML.
        where = ["--host", "127.0.0.1", "--port", str(port)]
        return [LITELLM.program("litellm"), "--config", str(path), *where, "--num_workers", "1"]

    settings = {"LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    return Contender(
        "litellm",
        f"LiteLLM's proxy {LITELLM.version()}, one worker, its documentation's settings for production, no database",
        command,
        "/health/liveliness",
        PATH,
        environment=lambda port: settings,
    )


def _gateway(name: str, what: str, upstream_port: int, settings: dict[str, str]) -> Contender:
    url = f"http://127.0.0.1:{upstream_port}"
    services = {f"{kind}_URL": url for kind in ("LLM", "SENTIMENT", "EMBEDDING", "REVIEW")}
    return service("gateway", {**services, "CACHE_ENABLED": "false", **settings}, name=name, what=what, path=PATH)


def ours(upstream_port: int, redis_port: int) -> Contender:
    """This project's gateway with a key of a file, which has limits."""
    digest, most = hash_of(KEY.encode()), UNREACHED_LIMIT
    key = Key(name="bench", sha256=digest, requests_per_minute=most, tokens_per_minute=most)
    keys = WORK / "keys.json"
    keys.parent.mkdir(parents=True, exist_ok=True)
    keys.touch(mode=0o600)
    keys.write_bytes(render_keys([key]))
    what = "this project's gateway, one worker; a key from a file, its limits, metrics and logs on, the cache off"
    settings = {"API_KEYS_FILE": str(keys), "REDIS_PORT": str(redis_port)}
    return _gateway(GATEWAY, what, upstream_port, settings)


def without_limits(upstream_port: int) -> Contender:
    """This project's gateway with one key for all, which has none."""
    what = "the same with API_KEY alone: no limits, and nothing asked of Redis"
    return _gateway(UNLIMITED, what, upstream_port, {"API_KEY": KEY})


def relays(names: list[str], upstream_port: int, redis_port: int) -> list[Contender]:
    """Those of `names` that are relays, and that this machine has."""
    made = {
        "nginx": lambda: relay_by_nginx(upstream_port),
        "bare": lambda: bare(upstream_port),
        "litellm": lambda: litellm(upstream_port),
        UNLIMITED: lambda: without_limits(upstream_port),
        GATEWAY: lambda: ours(upstream_port, redis_port),
    }
    return [made[name]() for name in names if name in made and (name != "nginx" or nginx_program())]
