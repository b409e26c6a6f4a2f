"""An encoder in bad weather: memory that runs out, a device that hangs, more work than it can do."""

import asyncio
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file

from onecard.batching.batch_limit import RECOVERY_BATCHES
from onecard.models.folders import STAND_INS, ModelKind, folder_name
from onecard.web import server_timing
from tests.support import Server, eventually, metric, serving, start

TEXT = "국물이 진하고 고기도 넉넉해서 다시 가고 싶은 집입니다."

NAN_TOKEN = 900
"""A token that is in no text of the canaries."""


@pytest.fixture
def fault(tmp_path: Path) -> Path:
    """The file that says what is wrong with the device; empty at first."""
    file = tmp_path / "fault"
    file.write_text("")
    return file


@pytest.fixture
def faulty(fault: Path, encoder_env: dict[str, str]) -> Iterator[Server]:
    """An embedding service whose device does what the file says."""
    env = {
        **encoder_env,
        "FAULT_FILE": str(fault),
        "ENGINE_HANG_SECONDS": "2",
        "CANARY_SECONDS": "0.5",
        "BATCH_TOKENS": "512",
        "DRAIN_SECONDS": "60",
    }
    with serving("tests.faulty_encoder", port_variable="EMBEDDING_PORT", env=env) as server:
        yield server


def embed(server: Server, texts: Sequence[str | list[int]], **headers: str) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/embeddings", json={"input": list(texts)}, headers=headers, timeout=60)


def test_memory_that_runs_out_costs_no_answer(faulty: Server, fault: Path) -> None:
    """torch's own error at several sizes: all texts are answered, rightly; the budget shrinks, then recovers."""
    texts = [f"{TEXT} {number}" for number in range(40)]
    wanted = embed(faulty, texts).json()["data"]
    for tokens in (256, 100, 40):
        fault.write_text(f"out-of-memory {tokens}")
        answer = embed(faulty, texts)
        assert answer.status_code == 200, answer.text
        for one, other in zip(answer.json()["data"], wanted, strict=True):
            assert one["embedding"] == pytest.approx(other["embedding"], abs=0.02)
        assert metric(faulty, "onecard_batch_budget_tokens") < 512
    assert metric(faulty, "onecard_batch_out_of_memory_total") >= 3
    fault.write_text("")
    for _ in range(RECOVERY_BATCHES * 5):
        embed(faulty, ["맛"])
    assert metric(faulty, "onecard_batch_budget_tokens") == 512


def test_a_text_that_cannot_fit_is_a_503_and_the_service_lives_on(faulty: Server, fault: Path) -> None:
    """With Retry-After, and in the one error shape."""
    fault.write_text("out-of-memory 10")
    answer = embed(faulty, [TEXT])
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert "does not fit" in answer.json()["error"]["message"]
    assert int(answer.headers["retry-after"]) >= 1
    assert "CUDA" not in answer.text
    assert embed(faulty, ["맛"]).status_code == 200


def test_what_is_no_number_is_neither_answered_nor_kept(fault: Path, caching_env: dict[str, str]) -> None:
    """Its text is a 500; the service stays ready while its canaries have numbers, and is not ready while they have
    none; when the device is well again, the text is computed, and the service ready, by itself."""
    env = {**caching_env, "FAULT_FILE": str(fault), "CANARY_SECONDS": "1"}
    text = [NAN_TOKEN, NAN_TOKEN + 1]  # Not in the cache.

    def ready() -> int:
        return httpx.get(f"{server.url}/health/ready").status_code

    def passed() -> float:
        return metric(server, 'onecard_canaries_total{outcome="passed"}')

    with serving("tests.faulty_encoder", port_variable="EMBEDDING_PORT", env=env) as server:
        for what in (f"nan {NAN_TOKEN}", "nan"):
            fault.write_text(what)
            before = passed()
            answer = embed(server, [text])
            assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
            eventually(lambda: ready() == 503 if what == "nan" else passed() > before)  # noqa: B023
            assert ready() == (503 if what == "nan" else 200)
        fault.write_text("")
        answer = embed(server, [text])
        assert answer.status_code == 200
        assert answer.headers["x-cache"] == "miss"
        assert all(-1 <= number <= 1 for number in answer.json()["data"][0]["embedding"])
        eventually(lambda: ready() == 200)


def test_a_model_that_gives_no_numbers_is_not_started(fault: Path, encoder_env: dict[str, str]) -> None:
    """One line says so."""
    fault.write_text("nan")
    server = start(
        "tests.faulty_encoder", port_variable="EMBEDDING_PORT", env={**encoder_env, "FAULT_FILE": str(fault)}
    )
    try:
        assert server.process.wait(60) == 1
        assert "no finite numbers" in server.log()
    finally:
        server.stop()


@pytest.mark.parametrize("kind", ["sentiment", "embedding"])
def test_weights_that_are_nan_are_not_served(
    kind: ModelKind, encoder_env: dict[str, str], shallow_cache: Path, tmp_path: Path
) -> None:
    """Of the classifier and of the sentence encoder: the process ends with one line before it listens."""
    models = tmp_path / "models"
    shutil.copytree(shallow_cache, models)
    file = models / folder_name(STAND_INS[kind]) / "model.safetensors"
    weights = load_file(file)
    for name, tensor in weights.items():
        if name.endswith("word_embeddings.weight"):
            tensor.fill_(torch.nan)
    save_file(weights, file, metadata={"format": "pt"})
    env = {**encoder_env, "MODEL_CACHE_PATH": str(models)}
    server = start(f"{kind}_service", port_variable=f"{kind.upper()}_PORT", env=env)
    try:
        assert server.process.wait(120) == 1
        assert "no finite numbers" in server.log()
    finally:
        server.stop()


def test_a_canary_finds_a_device_that_hangs_while_nobody_asks(faulty: Server, fault: Path) -> None:
    """Without any request the process ends by itself, so that it is started anew."""
    fault.write_text("hang")
    faulty.process.wait(60)
    assert "engine lost" in faulty.log()
    assert "does not answer" in faulty.log()


def test_a_device_that_hangs_ends_the_process(faulty: Server, fault: Path) -> None:
    """Its request is answered with 503, and the process ends by itself, so that it is started anew."""
    fault.write_text("hang")
    answer = embed(faulty, [TEXT])
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) >= 1
    faulty.process.wait(30)
    assert "does not answer" in faulty.log()


async def test_more_than_it_can_do(faulty: Server) -> None:
    """A crowd in a hurry: some are served in time, the others told at once when to come back; nobody waits in vain."""
    texts = [f"{TEXT} {number}" for number in range(200)]
    headers = {"x-onecard-timeout-ms": "8000", "x-onecard-lane": "bulk"}
    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=200)) as client:
        asked = (client.post(f"{faulty.url}/v1/embeddings", json={"input": texts}, headers=headers) for _ in range(60))
        answers = await asyncio.gather(*asked)
    codes = {answer.status_code for answer in answers}
    assert 200 in codes
    assert codes <= {200, 429, 504}
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert all(1 <= int(answer.headers["retry-after"]) <= 30 for answer in refused)
    assert {answer.json()["error"]["code"] for answer in refused} == {"too_busy"}
    assert metric(faulty, 'onecard_queue_refused_total{lane="bulk"}') == len(refused)
    assert metric(faulty, 'onecard_queue_tokens{lane="bulk"}') == 0
    assert embed(faulty, ["맛"]).status_code == 200


async def test_accepted_requests_are_answered_before_it_stops(faulty: Server) -> None:
    """SIGTERM in the middle of work: what was accepted is answered, and the process ends."""
    texts = [f"{TEXT} {number}" for number in range(100)]
    async with httpx.AsyncClient(timeout=60) as client:
        asked = [
            asyncio.create_task(client.post(f"{faulty.url}/v1/embeddings", json={"input": texts})) for _ in range(8)
        ]
        for _ in range(500):
            if metric(faulty, 'onecard_queue_tokens{lane="bulk"}'):
                break
            await asyncio.sleep(0.01)
        faulty.process.terminate()
        answers = await asyncio.gather(*asked)
    assert [answer.status_code for answer in answers] == [200] * 8
    assert all(len(answer.json()["data"]) == 100 for answer in answers)
    faulty.process.wait(90)


def test_what_is_not_done_when_the_time_to_stop_is_over_is_a_503(fault: Path, encoder_env: dict[str, str]) -> None:
    """In the one error shape and with Retry-After, not a torn connection."""
    env = {**encoder_env, "FAULT_FILE": str(fault), "DRAIN_SECONDS": "1"}
    with (
        serving("tests.faulty_encoder", port_variable="EMBEDDING_PORT", env=env) as server,
        ThreadPoolExecutor(1) as client,
    ):
        fault.write_text("hang")
        asked = client.submit(embed, server, [TEXT])
        eventually(fault.with_suffix(".held").exists)
        server.process.terminate()
        answer = asked.result(30)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        server.process.wait(30)
        assert "Exception in ASGI" not in server.log()


@pytest.mark.parametrize(
    ("header", "value"),
    [("x-onecard-lane", "fast"), ("x-onecard-timeout-ms", "soon"), ("x-onecard-timeout-ms", "-1"),
     ("x-onecard-timeout-ms", "inf"), ("x-onecard-timeout-ms", "nan")],
)  # fmt: skip
def test_terms_that_mean_nothing(embedding: Server, header: str, value: str) -> None:
    """A clear 400 that names the header."""
    answer = embed(embedding, [TEXT], **{header: value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, header)


def test_the_answer_says_where_its_time_went(embedding: Server) -> None:
    """server-timing has the queue, the tokenizer and the model."""
    timing = embed(embedding, [TEXT], **{"cache-control": "no-store"}).headers["server-timing"]
    assert list(server_timing.parse(timing)) == ["tokenize", "queue", "inference", "total"]
