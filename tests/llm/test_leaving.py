"""A client that leaves takes its work with it."""

import socket
import time
from typing import Any

import httpx
import pytest

from tests.llm.conftest import STAND_IN, Target
from tests.support import serving

LONG: dict[str, Any] = {"model": STAND_IN, "prompt": "국물이 ", "max_tokens": 900, "ignore_eos": True}


def running(target: Target) -> float:
    return target.metric("vllm:num_requests_running", "onecard_llm_requests_running")


def written(target: Target) -> float:
    return target.metric("vllm:generation_tokens_total", "onecard_llm_generation_tokens_total")


def wait_for_running(target: Target, wanted: float) -> None:
    deadline = time.monotonic() + 10
    while running(target) != wanted:
        assert time.monotonic() < deadline, f"{running(target)} requests run, not {wanted}"
        time.sleep(0.05)


def test_leaving_a_stream_ends_its_generation(target: Target) -> None:
    """The engine stops writing when the client of a stream goes away."""
    wait_for_running(target, 0)
    before = written(target)
    with (
        target.http() as http,
        http.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as answer,
    ):
        lines = answer.iter_lines()
        for _ in range(5):
            next(lines)
        assert running(target) == 1
    wait_for_running(target, 0)
    assert written(target) - before < LONG["max_tokens"]


@pytest.mark.parametrize("path", ["/v1/completions", "/generate"])
def test_leaving_before_the_answer_ends_its_generation(target: Target, path: str) -> None:
    """The same without a stream: the connection is closed while the engine works."""
    wait_for_running(target, 0)
    before = written(target)
    body = {k: v for k, v in LONG.items() if path != "/generate" or k in ("prompt", "max_tokens")}
    request = target.http().build_request("POST", path, json=body)
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    address = (request.url.host, request.url.port or 80)
    with socket.create_connection(address) as raw:
        raw.sendall(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + request.content)
        if path != "/generate":
            wait_for_running(target, 1)
    wait_for_running(target, 0)
    assert written(target) - before < LONG["max_tokens"]


def test_a_full_queue_is_a_503_with_retry_after(llm_env: dict[str, str]) -> None:
    """Beyond its bound the queue refuses at once, and says when to try again."""
    env = {**llm_env, "VLLM_ENABLED": "false", "LLM_QUEUE_REQUESTS": "0"}
    with serving("llm_service", port_variable="VLLM_PORT", env=env) as server:
        headers = {"authorization": f"Bearer {env['API_KEY']}"}
        with httpx.Client(base_url=server.url, headers=headers, timeout=60) as http:
            answer = http.post("/v1/completions", json={**LONG, "prompt": ["a", "b", "c"], "max_tokens": 2})
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
            assert answer.json()["error"]["code"] == "unavailable"
            assert http.post("/v1/completions", json={**LONG, "max_tokens": 2}).status_code == 200
