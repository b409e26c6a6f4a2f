"""A client that leaves takes its work with it."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from tests.llm.conftest import STAND_IN, Target
from tests.support import serving

NUMBERS: dict[str, Any] = {"prompt": " ".join(map(str, range(1, 13))), "max_tokens": 900, "temperature": 0}
"""What goes on for long by itself, and in words: the likeliest words after numbers are more numbers."""
LONG: dict[str, Any] = {**NUMBERS, "model": STAND_IN, "ignore_eos": True}


def running(target: Target) -> float:
    return target.metric("vllm:num_requests_running", "onecard_llm_requests_running")


def written(target: Target) -> float:
    return target.metric("vllm:generation_tokens_total", "onecard_llm_generation_tokens_total")


def waiting(target: Target) -> float:
    return target.metric("vllm:num_requests_waiting", "onecard_llm_requests_waiting")


def wait_for(count: Callable[[Target], float], target: Target, wanted: float) -> None:
    deadline = time.monotonic() + 10
    while (now := count(target)) != wanted:
        assert time.monotonic() < deadline, f"{now} requests, not {wanted}"
        time.sleep(0.02)


def finished(target: Target) -> float:
    """Generations that came to their own end."""
    return target.metric("vllm:request_success_total", "onecard_llm_requests_total", without="abort")


@contextmanager
def no_generation_finishes(target: Target) -> Iterator[None]:
    """Nothing runs before and, soon, after; what ran in between was ended before its own end."""
    wait_for(running, target, 0)
    tokens, ends = written(target), finished(target)
    yield
    wait_for(running, target, 0)
    assert finished(target) == ends
    assert written(target) - tokens < LONG["max_tokens"]


def access_line(target: Target, path: str, offset: int) -> dict[str, Any]:
    """The engine's access line of the first request to `path` that it has logged since `offset`."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for text in target.server.log()[offset:].splitlines():
            if f'"{path}"' in text and '"bytes_out"' in text:
                line: dict[str, Any] = json.loads(text)
                return line
        time.sleep(0.02)
    raise AssertionError(f"no access line of {path}")


def test_leaving_a_stream_ends_its_generation(target: Target) -> None:
    """The engine stops writing when the client of a stream goes away."""
    with (
        no_generation_finishes(target),
        target.http() as http,
        http.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as answer,
    ):
        lines = answer.iter_lines()
        for _ in range(5):
            next(lines)
        assert running(target) == 1


@contextmanager
def asked(target: Target, path: str, body: dict[str, Any]) -> Iterator[None]:
    """The request is sent; the connection is closed at the end without a look at the answer."""
    request = target.http().build_request("POST", path, json=body)
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    with socket.create_connection((request.url.host, request.url.port or 80)) as raw:
        raw.sendall(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + request.content)
        yield


def test_leaving_before_the_answer_ends_its_generation(target: Target) -> None:
    """The same without a stream: the connection is closed while the engine works. That is no fault of the server."""
    offset = len(target.server.log())
    with no_generation_finishes(target), asked(target, "/v1/completions", LONG):
        wait_for(running, target, 1)
    assert access_line(target, "/v1/completions", offset)["status"] < 500


def test_leaving_generate_is_no_fault_either(engine: Target) -> None:
    """Whether the short answer was ready or not; it cannot be told to be a long one."""
    offset = len(engine.server.log())
    with asked(engine, "/generate", NUMBERS):
        pass
    assert access_line(engine, "/generate", offset)["status"] < 500
    wait_for(running, engine, 0)


def stream_status(target: Target, body: dict[str, Any]) -> int:
    """The status of a stream, which comes with its first event. The client leaves then."""
    with target.http() as http, http.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
        return answer.status_code


def test_a_full_queue_is_a_503_with_retry_after(llm_env: dict[str, str]) -> None:
    """Beyond its bound the queue refuses at once, and says when to try again."""
    env = {**llm_env, "VLLM_ENABLED": "false", "LLM_QUEUE_REQUESTS": "1"}
    with serving("llm_service", port_variable="VLLM_PORT", env=env) as server:
        target = Target("transformers", server.url, server)
        two = {**LONG, "prompt": ["a", "b"], "max_tokens": 2}
        with ThreadPoolExecutor() as pool, target.http() as http:
            with http.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as first:
                wait_for(running, target, 1)  # The second would join its batch otherwise, and not wait.
                second = pool.submit(stream_status, target, LONG)
                wait_for(waiting, target, 1)
                answer = http.post("/v1/completions", json=two)
            assert first.status_code == second.result() == 200
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
            assert answer.json()["error"]["code"] == "unavailable"
            wait_for(waiting, target, 0)
            assert http.post("/v1/completions", json=two).status_code == 200
