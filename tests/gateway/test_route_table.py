"""A route is one line of the table, and what is switched off is not even imported."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from gateway import state
from gateway.app import create_app
from gateway.routes import PROMPT, ROUTES, Cost, Route, RouteTable
from gateway.settings import GatewaySettings
from onecard.models import identity
from tests.gateway.support import key, secret_of, write_keys

BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}}
TABLE = RouteTable(
    (
        *ROUTES,
        Route("PATCH", "/v1/drafts/{name}", "llm", "Change a draft.", BODY, Cost(True, ("limit",))),
        Route("POST", "/v1/moods", "sentiment", "Moods of texts.", BODY, PROMPT, "sentiment"),
    )
)
"""Two lines more than there are."""


class Service(BaseHTTPRequestHandler):
    """Says what it was asked, and which model it is."""

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        answer = json.dumps({"asked": f"{self.command} {self.path}", "body": body.decode()}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.send_header(identity.MODEL_HEADER, f"test-model@1:{0:016x}")
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_PATCH = do_GET

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """The address of the service behind the gateway."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


class Tracing:
    """Keeps the names of spans."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def request(self, name: str, *_: object) -> "Tracing":
        self.names.append(name)
        return self

    def attempt(self, *_: object) -> "Tracing":
        self.headers: dict[str, str] = {}
        return self

    def end(self, *_: object) -> None:
        pass


@contextmanager
def gateway(service: str, **settings: Any) -> Iterator[TestClient]:
    """A gateway with the longer table, of which all services are one."""
    names = ("llm_url", "sentiment_url", "embedding_url", "review_url")
    given = GatewaySettings.model_validate({**dict.fromkeys(names, service), "redis_port": 1, **settings})
    with TestClient(create_app(given, TABLE), base_url="http://localhost") as client:
        yield client


def test_a_new_route_is_one_line(service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is relayed, documented, limited, measured, traced, and open to pages of other origins."""
    tracing = Tracing()
    monkeypatch.setattr(state, "_open_tracer", lambda *_: tracing)
    write_keys(tmp_path / "keys.json", [key("a", tokens_per_minute=1000)])
    headers = {"authorization": f"Bearer {secret_of('a')}"}
    with gateway(service, api_keys_file=tmp_path / "keys.json", cors_origins="https://app.example") as client:
        answer = client.patch("/v1/drafts/a%20b", json={"limit": 90, "n": 2}, headers=headers)
        assert answer.json() == {"asked": "PATCH /v1/drafts/a%20b", "body": '{"limit":90,"n":2}'}
        reserved = 5 + 2 * 90
        assert answer.headers["x-ratelimit-remaining-tokens"] == str(1000 - reserved)
        assert tracing.names == ["PATCH /v1/drafts/{name}"]
        assert client.get("/openapi.json", headers=headers).json()["paths"]["/v1/drafts/{name}"]["patch"]["requestBody"]
        metrics = client.get("/metrics", headers=headers).text
        assert 'onecard_http_cache_total{cache="none",route="/v1/drafts/{name}"} 1.0' in metrics
        page = {"origin": "https://app.example", "access-control-request-method": "PATCH"}
        assert "PATCH" in client.options("/v1/drafts/a", headers=page).headers["access-control-allow-methods"]


def test_a_new_route_is_cached_by_its_line(service: str) -> None:
    """As its kind is."""
    with gateway(service, cache_memory_mb=1) as client:
        answers = [client.post("/v1/moods", json={"input": "a"}) for _ in range(3)]
    assert answers[-1].headers["x-cache"] == "hit"
    assert {answer.text for answer in answers} == {answers[0].text}


@pytest.mark.parametrize(("enabled", "reasons"), [(True, ["no-store", "temperature"]), (False, ["disabled"])])
def test_each_reason_of_a_bypass_is_counted_from_nothing(service: str, enabled: bool, reasons: list[str]) -> None:
    """A rate sees the first one."""
    with gateway(service, cache_enabled=enabled) as client:
        metrics = client.get("/metrics").text
    for reason in reasons:
        assert f'onecard_answers_bypassed_total{{reason="{reason}"}} 0.0' in metrics


PROGRAM = """
import sys
from fastapi.testclient import TestClient
from gateway.app import create_app
from gateway.settings import GatewaySettings
nobody = "http://127.0.0.1:1"
urls = dict.fromkeys(("llm_url", "sentiment_url", "embedding_url", "review_url"), nobody)
settings = GatewaySettings.model_validate({**urls, "redis_port": 1})
with TestClient(create_app(settings), base_url="http://localhost") as client:
    assert client.post("/v1/chat/completions", json={}).status_code in (401, 503)
print(*(name for name in sys.modules if name.startswith(("gateway.", "opentelemetry"))))
"""
FEATURES = {
    "keys": ("gateway.keys",),
    "limits": ("gateway.limits",),
    "cache": (
        "gateway.answers.llm_cache",
        "gateway.answers.response_cache",
        "gateway.answers.cache_policy",
        "gateway.answers.shared_stream",
    ),
    "traces": ("gateway.telemetry.otlp", "opentelemetry.exporter", "opentelemetry.sdk.trace"),
}


@pytest.mark.parametrize("on", [(), ("keys",), ("keys", "limits"), ("cache",), ("traces",)])
def test_the_code_of_a_feature_that_is_off_is_not_imported(on: tuple[str, ...]) -> None:
    """Each of the four by itself."""
    env = {
        "CACHE_ENABLED": str("cache" in on).lower(),
        **({"API_KEY": "k" * 32} if "keys" in on else {}),
        **({"REQUESTS_PER_MINUTE": "9"} if "limits" in on else {}),
        **({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"} if "traces" in on else {}),
    }
    inherited = {name: value for name, value in os.environ.items() if name not in env and name != "API_KEYS_FILE"}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**inherited, **env}, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    loaded = run.stdout.split()
    for feature, prefixes in FEATURES.items():
        for prefix in prefixes:
            assert any(name == prefix or name.startswith(f"{prefix}.") for name in loaded) == (feature in on), prefix
