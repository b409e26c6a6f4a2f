"""How the review service asks the others, over real sockets."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2 as httpx
import numpy as np
import pytest
from tenacity import RetryCallState

from onecard.errors import DeadlineExceeded, TooBusy, Unavailable
from review_service import model_services
from review_service.model_services import MAX_ATTEMPTS, InputType, InvalidModelResponse, ModelService, ModelServices
from tests.support import Server, free_port


class FakeModelServer:
    """A server whose answers are given, in turn, the last one again and again; "" is silence."""

    def __init__(self, *answers: str) -> None:
        self.answers = answers
        self.asked = 0
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-l"))
        await reader.readexactly(length)
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        if answer:
            writer.write(answer.encode())
            writer.close()


def http(status: int, body: str = "{}") -> str:
    return f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n{body}"


@asynccontextmanager
async def serving(peer: FakeModelServer) -> AsyncIterator[FakeModelServer]:
    server = await asyncio.start_server(peer.answer, "127.0.0.1")
    peer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield peer
    finally:
        server.close()


async def ask(*urls: str, seconds: float = 20) -> dict[str, object]:
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await ModelService("test", urls, client).post("/x", {}, {}, seconds)).body


async def test_a_replica_that_is_away_leaves_the_next_one() -> None:
    """Nobody hears of it."""
    async with serving(FakeModelServer(http(200, '{"a": 1}'))) as peer:
        assert await ask(f"http://127.0.0.1:{free_port()}", peer.url) == {"a": 1}


async def test_each_request_that_may_not_wait_asks_each_replica() -> None:
    """Also while others take their turns: with one of two away, none draws that one twice."""
    url = f"http://127.0.0.1:{free_port()}"
    async with serving(FakeModelServer(http(200, '{"a": 1}'))) as peer, httpx.AsyncClient(trust_env=False) as client:
        service = ModelService("test", [url, peer.url], client)
        answers = await asyncio.gather(*(service.post_at_once("/x", {}, {}, 20) for _ in range(40)))
    assert [answer.body for answer in answers] == [{"a": 1}] * 40


async def test_a_service_that_restarts_is_waited_for() -> None:
    """A 503, and then it is back."""
    async with serving(FakeModelServer(http(503), http(200, '{"a": 1}'))) as peer:
        assert await ask(peer.url) == {"a": 1}


async def test_a_request_that_succeeds_prepares_no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most do."""
    monkeypatch.delattr(model_services, "AsyncRetrying")
    async with serving(FakeModelServer(http(200, '{"a": 1}'))) as peer:
        assert await ask(peer.url) == {"a": 1}


async def test_a_service_that_stays_ill_is_waited_for_before_each_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also before the first one."""
    attempts = list[int]()

    def wait(state: RetryCallState) -> float:
        attempts.append(state.attempt_number)
        return 0.0

    monkeypatch.setattr(model_services, "wait_random_exponential", lambda **_: wait)
    async with serving(FakeModelServer(http(503))) as peer:
        with pytest.raises(Unavailable):
            await ask(peer.url)
        assert (peer.asked, attempts[: MAX_ATTEMPTS - 1]) == (MAX_ATTEMPTS, [1, 2, 3])


@pytest.mark.parametrize(("status", "error"), [(500, Unavailable), (503, Unavailable), (429, TooBusy)])
async def test_a_service_that_stays_ill_is_told(status: int, error: type[Exception]) -> None:
    """After some attempts, without its address."""
    async with serving(FakeModelServer(http(status))) as peer:
        with pytest.raises(error) as told:
            await ask(peer.url)
        assert peer.asked == MAX_ATTEMPTS
        assert "127.0.0.1" not in str(told.value)


async def test_a_silent_service_is_asked_once() -> None:
    """Whoever waits has waited long enough."""
    async with serving(FakeModelServer("")) as peer:
        with pytest.raises(DeadlineExceeded):
            await ask(peer.url, seconds=0.3)
        assert peer.asked == 1


@pytest.mark.parametrize("answer", [http(400), http(200, "half {"), http(200, "[]")], ids=["400", "no JSON", "a list"])
async def test_an_answer_that_is_none_is_not_asked_for_again(answer: str) -> None:
    """It would come again."""
    async with serving(FakeModelServer(answer)) as peer:
        with pytest.raises(InvalidModelResponse):
            await ask(peer.url)
        assert peer.asked == 1


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        '{"data": [], "model": "m"}',
        '{"data": [{"embedding": "AAAA", "label": "positive"}], "model": "m"}',
        '{"data": [{"embedding": "AAAAAAAAAAA=", "label": 5, "score": "x"}, {"embedding": "AAAA"}], "model": "m"}',
    ],
)
async def test_results_that_do_not_fit_are_refused(body: str) -> None:
    """No list, too few, half a vector."""
    async with serving(FakeModelServer(http(200, body))) as peer, httpx.AsyncClient(trust_env=False) as client:
        service = ModelService("test", (peer.url,), client)
        models = ModelServices(embedding=service, sentiment=service, llm=service, llm_headers={})
        with pytest.raises(InvalidModelResponse):
            await models.embed(["a"], "bulk", "document")
        with pytest.raises(InvalidModelResponse):
            await models.classify(["a"], "bulk")
        with pytest.raises(InvalidModelResponse):
            await models.generate({})


@pytest.mark.parametrize(
    ("header", "model"),
    [
        ("", "a/m"),
        ("x-onecard-model: a/m@r1:0123456789abcdef\r\n", "a/m@r1"),
        ("x-onecard-model: a/m@r1:fedcba9876543210\r\n", "a/m@r1"),
        ("x-onecard-model: b/n@r1:0123456789abcdef\r\n", "a/m"),
        ("x-onecard-model: nonsense\r\n", "a/m"),
    ],
)
async def test_vectors_are_named_by_model_and_revision(header: str, model: str) -> None:
    """Whatever device and libraries computed them; by the name alone where the answer names no revision of it."""
    data = [{"embedding": base64.b64encode(np.array([0.6, 0.8], "<f4").tobytes()).decode()}]
    answer = http(200, json.dumps({"data": data, "model": "a/m"})).replace("connection:", f"{header}connection:")
    async with serving(FakeModelServer(answer)) as peer, httpx.AsyncClient(trust_env=False) as client:
        service = ModelService("test", (peer.url,), client)
        models = ModelServices(embedding=service, sentiment=service, llm=service, llm_headers={})
        assert (await models.embed(["a"], "bulk", "document")).model == model


@pytest.mark.parametrize("engine", ["", "openvino 2026.4.1 int8"])
async def test_vectors_say_what_computed_them(engine: str) -> None:
    """As the service's header names it; nothing if it names none."""
    data = [{"embedding": base64.b64encode(np.array([0.6, 0.8], "<f4").tobytes()).decode()}]
    header = f"x-onecard-engine: {engine}\r\n" if engine else ""
    answer = http(200, json.dumps({"data": data, "model": "m"})).replace("connection:", f"{header}connection:")
    async with serving(FakeModelServer(answer)) as peer, httpx.AsyncClient(trust_env=False) as client:
        service = ModelService("test", (peer.url,), client)
        models = ModelServices(embedding=service, sentiment=service, llm=service, llm_headers={})
        assert (await models.embed(["a"], "bulk", "document")).engine == engine


@pytest.mark.parametrize("vector", [[np.nan, 1], [np.inf, 0], [-np.inf, 1], [0, 0], [3, 4]], ids=str)
async def test_vectors_that_are_none_are_refused(vector: list[float]) -> None:
    """NaN, infinities, no length, and another length than 1: a search would find nothing by them, or everything."""
    rows = [np.array(row, "<f4").tobytes() for row in ([0.6, 0.8], vector)]
    data = [{"embedding": base64.b64encode(row).decode()} for row in rows]
    body = json.dumps({"data": data, "model": "m"})
    async with serving(FakeModelServer(http(200, body))) as peer, httpx.AsyncClient(trust_env=False) as client:
        service = ModelService("test", (peer.url,), client)
        models = ModelServices(embedding=service, sentiment=service, llm=service, llm_headers={})
        with pytest.raises(InvalidModelResponse):
            await models.embed(["a", "b"], "bulk", "document")


@pytest.mark.parametrize(
    ("label", "score"), [("neutral", 0.9), ("positive", 1.5), ("positive", -1), ("positive", float("nan")), (None, 0.5)]
)
async def test_opinions_that_are_none_are_refused(label: str, score: float) -> None:
    """A label that there is not, and what is no probability."""
    body = json.dumps({"data": [{"label": label, "score": score}]})
    async with serving(FakeModelServer(http(200, body))) as peer, httpx.AsyncClient(trust_env=False) as client:
        service = ModelService("test", (peer.url,), client)
        models = ModelServices(embedding=service, sentiment=service, llm=service, llm_headers={})
        with pytest.raises(InvalidModelResponse):
            await models.classify(["a"], "bulk")


@pytest.mark.parametrize("input_type", ["query", "document"])
async def test_texts_are_embedded_as_what_they_are(embedding: Server, input_type: InputType) -> None:
    """The embedding service gets to know whether they are queries or reviews."""
    asked = {"input": ["조용한 집"], "input_type": input_type}
    async with httpx.AsyncClient(trust_env=False) as client:
        wanted = (await client.post(f"{embedding.url}/v1/embeddings", json=asked, timeout=60)).json()["data"][0]
        service = ModelService("test", (embedding.url,), client)
        models = ModelServices(embedding=service, sentiment=service, llm=service, llm_headers={})
        found = await models.embed(["조용한 집"], "interactive", input_type)
    assert found.vectors[0] == pytest.approx(wanted["embedding"], abs=1e-6)
