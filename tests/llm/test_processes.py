"""vLLM is three processes; to a supervisor they are one."""

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import httpx
import psutil
import pytest

from tests.llm.conftest import STAND_IN, Target
from tests.support import KEY, VLLM_START_SECONDS, Server, serving, start

LONG = {"model": STAND_IN, "prompt": "국물이 ", "max_tokens": 900, "ignore_eos": True}


@pytest.fixture
def own_vllm(llm_env: dict[str, str]) -> Iterator[Server]:
    """A vLLM that a test may break."""
    env = {**llm_env, "DRAIN_SECONDS": "60"}
    with serving("llm_service", port_variable="VLLM_PORT", env=env, ready_within=VLLM_START_SECONDS) as server:
        yield server


def children(server: Server) -> list[psutil.Process]:
    """The engine's processes."""
    found = psutil.Process(server.process.pid).children(recursive=True)
    assert any("EngineCore" in " ".join(child.cmdline()) for child in found)
    return found


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until it holds, for at most 10 s."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def assert_gone(processes: list[psutil.Process], seconds: float) -> None:
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@contextmanager
def unread_answers(server: Server) -> Iterator[None]:
    """A client that has pipelined requests until the server can write no more answers, and reads none of them."""

    def answered() -> float:
        name = "onecard_http_requests_total"
        return Target("vllm", server.url, server).metric(name, "", without="/metrics")

    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)  # The server's buffer grows with it.
        raw.connect(("127.0.0.1", server.port))
        asked, start = 1500, answered()  # 57 KiB; the server reads 64 KiB ahead.
        raw.sendall(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n" * asked)
        seen = [start]
        while seen[-1] == start or len(set(seen[-10:])) > 1:
            time.sleep(0.1)
            seen.append(answered())
        assert seen[-1] < start + asked
        yield


def test_sigterm_finishes_what_was_accepted_and_refuses_the_rest(own_vllm: Server, llm_env: dict[str, str]) -> None:
    """Accepted requests get their whole answer, new ones a clear 503, readiness falls, and nothing stays behind. A
    client that does not read its answers, which are complete, holds nothing up: nobody else would end the wait for it.
    """
    headers = {"authorization": f"Bearer {llm_env['API_KEY']}"}
    engine = children(own_vllm)
    target = Target("vllm", own_vllm.url, own_vllm)
    answers: list[httpx.Response] = []
    with (
        httpx.Client(base_url=own_vllm.url, headers=headers, timeout=60) as http,
        unread_answers(own_vllm),
    ):

        def ask() -> None:
            answers.append(httpx.post(f"{own_vllm.url}/v1/completions", json=LONG, headers=headers, timeout=60))

        asking = [threading.Thread(target=ask) for _ in range(2)]
        for thread in asking:
            thread.start()
        with http.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as stream:
            lines = stream.iter_lines()
            next(lines)
            wait_for(lambda: target.metric("vllm:num_requests_running", "") == 3)
            own_vllm.process.send_signal(signal.SIGTERM)
            wait_for(lambda: httpx.get(f"{own_vllm.url}/health/ready").status_code == 503)
            refused = httpx.post(f"{own_vllm.url}/v1/completions", json=LONG, headers=headers, timeout=60)
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "unavailable"
            assert int(refused.headers["retry-after"]) > 0
            assert [line for line in lines if line][-1] == "data: [DONE]"
        for thread in asking:
            thread.join()
        assert [answer.status_code for answer in answers] == [200, 200], [answer.text for answer in answers]
        assert [answer.json()["usage"]["completion_tokens"] for answer in answers] == [LONG["max_tokens"]] * 2
        assert own_vllm.process.wait(20) == 0
    assert_gone(engine, 10)


def test_an_answer_that_takes_too_long_keeps_no_server_from_ending(llm_env: dict[str, str]) -> None:
    """A stream that is under way when the time to finish is over breaks, or ends with an error: no client takes either
    for an answer."""
    headers = {"authorization": f"Bearer {llm_env['API_KEY']}"}
    env = {**llm_env, "DRAIN_SECONDS": "0"}
    with (
        serving("llm_service", port_variable="VLLM_PORT", env=env, ready_within=VLLM_START_SECONDS) as server,
        httpx.Client(base_url=server.url, headers=headers, timeout=60) as http,
        http.stream("POST", "/v1/completions", json={**LONG, "max_tokens": 1900, "stream": True}) as stream,
    ):
        lines = stream.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        try:
            # vLLM's own word for an engine that has ended under it, if that comes before the connection's end.
            broken = any(line.startswith('data: {"error"') for line in list(lines))
        except httpx.RemoteProtocolError:
            broken = True
        assert broken
        assert server.process.wait(30) == 0


def test_the_transformers_engine_finishes_what_was_accepted_too(llm_env: dict[str, str]) -> None:
    """SIGTERM in the middle of a stream: the stream comes to its end, then the process ends."""
    headers = {"authorization": f"Bearer {llm_env['API_KEY']}"}
    env = {**llm_env, "VLLM_ENABLED": "false"}
    with (
        serving("llm_service", port_variable="VLLM_PORT", env=env) as server,
        httpx.Client(base_url=server.url, headers=headers, timeout=60) as http,
    ):
        with http.stream("POST", "/v1/completions", json={**LONG, "max_tokens": 100, "stream": True}) as stream:
            lines = stream.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGTERM)
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert server.process.wait(20) in (0, -signal.SIGTERM)


def test_a_killed_api_server_leaves_no_engine_behind(own_vllm: Server) -> None:
    """The engine's processes, with the model in their memory, end with the server that a supervisor sees."""
    engine = children(own_vllm)
    own_vllm.process.kill()
    own_vllm.process.wait(5)
    assert_gone(engine, 10)


def command_of(process: psutil.Process) -> str:
    """Its command line; nothing of one that has ended meanwhile."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_a_server_killed_while_it_starts_leaves_no_engine_behind(llm_env: dict[str, str]) -> None:
    """The same before the engine has loaded anything, when it would wait for its server for minutes."""
    server = start("llm_service", port_variable="VLLM_PORT", env=llm_env)
    try:
        process, deadline = psutil.Process(server.process.pid), time.monotonic() + VLLM_START_SECONDS
        while not (engine := [c for c in process.children() if "spawn_main" in command_of(c)]):
            assert time.monotonic() < deadline, server.log()
            time.sleep(0.05)
        server.process.kill()
        server.process.wait(5)
        assert_gone(engine, 40)
    finally:
        server.stop()


def test_a_killed_engine_ends_the_server(own_vllm: Server) -> None:
    """Without its engine the server is not ready, and exits with an error, so that a supervisor starts it again,
    whether or not a client reads its answers."""
    engine = children(own_vllm)
    headers = {"authorization": f"Bearer {KEY}"}
    with unread_answers(own_vllm), httpx.Client(base_url=own_vllm.url, headers=headers, timeout=30) as http:
        next(child for child in engine if "EngineCore" in command_of(child)).kill()
        with suppress(httpx.TransportError):
            while own_vllm.process.poll() is None:
                answer = http.post("/v1/completions", json={**LONG, "max_tokens": 5})
                assert answer.status_code in (200, 503), answer.text
                assert answer.status_code == 200 or answer.headers["retry-after"]
        assert own_vllm.process.wait(20) == 1
    assert_gone(engine, 10)
