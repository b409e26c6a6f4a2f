"""A canary in each LLM engine: what hangs is found and ended, what is busy goes on, and NaN never leaves."""

import json
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from onecard.models.folders import STAND_INS, folder_name
from tests.llm.conftest import STAND_IN, Target
from tests.support import KEY, VLLM_START_SECONDS, Server, eventually, serving, start

pytestmark = pytest.mark.timeout(600)

HEADERS = {"authorization": f"Bearer {KEY}"}
FOUND_SECONDS = 30
"""Longest time until a hung engine is taken out."""


def engine_of(server: Server) -> psutil.Process:
    """vLLM's engine process."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    return next(child for child in children if "EngineCore" in " ".join(child.cmdline()))


def readiness(server: Server) -> int:
    """Status of the readiness route; 0 while nobody listens."""
    try:
        return httpx.get(f"{server.url}/health/ready", timeout=5).status_code
    except httpx.TransportError:
        return 0


def broken_model(models: Path, target: Path, *, nan_tokens: slice) -> list[int]:
    """A copy of the stand-in whose input embeddings of some tokens are NaN; its output layer is whole.

    Returns:
        The ids of those tokens.
    """
    shutil.copytree(models, target)
    folder = target / folder_name(STAND_INS["llm"])
    weights = load_file(folder / "model.safetensors")
    embeddings = weights["model.embed_tokens.weight"]
    weights.setdefault("lm_head.weight", embeddings.clone())
    embeddings[nan_tokens] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    return list(range(len(embeddings)))[nan_tokens]


@pytest.fixture
def own_vllm(llm_env: dict[str, str]) -> Iterator[Server]:
    """A vLLM that a test may break."""
    with serving("llm_service", port_variable="VLLM_PORT", env=llm_env, ready_within=VLLM_START_SECONDS) as server:
        yield server


def test_a_stopped_engine_is_taken_out_and_ended(own_vllm: Server) -> None:
    """SIGSTOP of vLLM's engine, with a request under way: not ready within 30 s, the request fails, and the server
    ends with an error, so that its supervisor restarts it."""
    engine = engine_of(own_vllm)
    body = {"model": STAND_IN, "prompt": "국물이 ", "max_tokens": 1500, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{own_vllm.url}/v1/completions", json=body, headers=HEADERS, timeout=120) as stream:
        lines = stream.iter_lines()
        next(lines)
        engine.send_signal(signal.SIGSTOP)
        eventually(lambda: readiness(own_vllm) != 200, within=FOUND_SECONDS)
        with suppress(httpx.RemoteProtocolError):
            assert "data: [DONE]" not in list(lines)
    assert own_vllm.process.wait(30) != 0
    psutil.wait_procs([engine], timeout=10)
    assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE
    assert "does not answer" in own_vllm.log()


def test_a_queue_full_of_long_generations_is_not_hung(llm_env: dict[str, str]) -> None:
    """Every slot generates for longer than a hang may last, so that the canary waits: the server stays ready, and all
    are answered."""
    env = {**llm_env, "LLM_MAX_SEQS": "2", "CANARY_SECONDS": "0.2", "ENGINE_HANG_SECONDS": "3"}
    body = {"model": STAND_IN, "prompt": "국물이 ", "max_tokens": 1500, "ignore_eos": True}
    with serving("llm_service", port_variable="VLLM_PORT", env=env, ready_within=VLLM_START_SECONDS) as server:
        target = Target("vllm", server.url, server)
        statuses: list[int] = []

        def ask() -> None:
            statuses.append(
                httpx.post(f"{server.url}/v1/completions", json=body, headers=HEADERS, timeout=300).status_code
            )

        asking = [threading.Thread(target=ask) for _ in range(6)]
        for thread in asking:
            thread.start()
        eventually(lambda: target.metric("vllm:num_requests_waiting", "") >= 3)
        while any(thread.is_alive() for thread in asking):
            assert readiness(server) == 200
        assert statuses == [200] * len(asking)
        assert server.process.poll() is None


@pytest.mark.parametrize("vllm_enabled", ["true", "false"])
def test_a_model_whose_weights_are_nan_is_not_served(
    llm_env: dict[str, str], model_cache: Path, tmp_path: Path, vllm_enabled: str
) -> None:
    """The process ends with an error that says so, before it listens."""
    broken_model(model_cache, tmp_path / "models", nan_tokens=slice(None))
    env = {**llm_env, "MODEL_CACHE_PATH": str(tmp_path / "models"), "VLLM_ENABLED": vllm_enabled}
    server = start("llm_service", port_variable="VLLM_PORT", env=env)
    try:
        assert server.process.wait(VLLM_START_SECONDS) != 0
        assert "gives no finite numbers" in server.log()
    finally:
        server.stop()


@pytest.mark.parametrize("vllm_enabled", ["true", "false"])
def test_a_request_whose_numbers_are_nan_fails_alone(
    llm_env: dict[str, str], model_cache: Path, tmp_path: Path, vllm_enabled: str
) -> None:
    """A token with NaN in its embedding: an error however one asks, never text, and the next request is answered."""
    [nan] = broken_model(model_cache, tmp_path / "models", nan_tokens=slice(7, 8))
    env = {**llm_env, "MODEL_CACHE_PATH": str(tmp_path / "models"), "VLLM_ENABLED": vllm_enabled}
    with (
        serving("llm_service", port_variable="VLLM_PORT", env=env, ready_within=VLLM_START_SECONDS) as server,
        httpx.Client(base_url=server.url, headers=HEADERS, timeout=60) as http,
    ):
        for more in ({}, {"temperature": 0}, {"n": 2, "temperature": 0.9}, {"stream": True}):
            body = {"model": STAND_IN, "prompt": [20, nan, 21], "max_tokens": 8, **more}
            answer = http.post("/v1/completions", json=body)
            assert answer.status_code == 500 or '"error"' in answer.text, (more, answer.text)
            assert '"text":"!' not in answer.text
            sound = http.post("/v1/completions", json={**body, "prompt": [20, 21, 22], "stream": False})
            assert sound.status_code == 200, sound.text
        assert readiness(server) == 200
