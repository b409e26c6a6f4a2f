"""Streams of the Transformers engine: what fails before they begin, what fails then, and what they leave behind."""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import Request

from llm_service.fallback.app import _ready
from llm_service.fallback.engine import GenerationTask
from llm_service.fallback.generation import Generation
from llm_service.fallback.routes import _respond, routes
from llm_service.fallback.schemas import CompletionRequest
from onecard.errors import InternalError, Unavailable
from onecard.settings import ServiceSettings
from onecard.web import app as base
from tests.llm.test_cancelled_prompts import ONE_TOKEN, Scene
from tests.shared.cache.support import eventually

STREAM: dict[str, Any] = {"prompt": [0], "max_tokens": 1, "stream": True}


@pytest.fixture
def scene() -> Iterator[Scene]:
    """An engine with room for one prompt that waits."""
    built = Scene(max_waiting=1)
    yield built
    built.decoder.gate.set()
    built.queue.close()


def write(scene: Scene, *words: str, then: Callable[[Generation], object]) -> None:
    """Have the model write some words: no prompt makes the real one fail."""

    def run(generations: Sequence[Generation]) -> None:
        for generation in generations:
            for word in words:
                generation._emit(word)
            then(generation)

    scene.decoder.run = run  # type: ignore[method-assign]


def client_of(scene: Scene) -> httpx.AsyncClient:
    """A client of the real app, with this engine."""
    app = base.create_app(
        title="LLM", settings=ServiceSettings(), lifespan=lambda _: nullcontext(), routes=routes(), ready=_ready
    )
    app.state.service = scene.engine
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")


async def test_a_failure_is_the_last_event(scene: Scene) -> None:
    """In the one shape; `[DONE]` would say that the answer is whole."""
    failure = InternalError("The engine failed on this request.")
    write(scene, "국물이", then=lambda generation: generation.fail(failure))
    async with client_of(scene) as client:
        answer = await client.post("/v1/completions", json=STREAM)
    assert answer.status_code == 200
    assert "[DONE]" not in answer.text
    word, last = (json.loads(event.removeprefix("data: ")) for event in answer.text.split("\n\n") if event)
    assert word["choices"][0]["text"] == "국물이"
    assert set(last["error"]) == {"message", "type", "param", "code"}


async def test_a_failure_before_the_first_event_is_a_response_with_its_status(scene: Scene) -> None:
    """A client that tries again at a 503 does so here, too."""
    restarting = Unavailable("The model is being restarted. Try again shortly.", retry_after=15)
    write(scene, then=lambda generation: generation.fail(restarting))
    async with client_of(scene) as client:
        answer = await client.post("/v1/completions", json=STREAM)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "15")
    assert answer.json()["error"]["code"] == "unavailable"


async def test_streams_that_come_at_once_do_not_overfill_the_queue(scene: Scene) -> None:
    """Each is queued before the next is let in; those beyond the limit get a 503."""
    await scene.ask_first()
    async with client_of(scene) as client:
        asked = [asyncio.create_task(client.post("/v1/completions", json=STREAM)) for _ in range(20)]
        await eventually(lambda: sum(task.done() for task in asked) == 18)
        assert scene.metric("requests_waiting") == 2
        scene.decoder.gate.set()
        answers = await asyncio.gather(*asked)
    assert sorted(answer.status_code for answer in answers) == [200] * 2 + [503] * 18
    assert all(answer.headers["retry-after"] for answer in answers if answer.status_code == 503)


async def test_a_response_that_never_starts_ends_its_generation(scene: Scene) -> None:
    """Its client has left after the first word."""
    write(scene, "국물이", then=lambda generation: (generation.cancelled.wait(), generation.end_if_cancelled()))
    app = SimpleNamespace(state=SimpleNamespace(service=scene.engine))
    scope = {"type": "http", "app": app, "state": {"request_id": "a"}}

    async def receive() -> Any:
        await asyncio.Future()

    async def send(_: object) -> None:
        raise ConnectionResetError

    task = GenerationTask([[0]], ONE_TOKEN)
    response = await _respond(Request(scope, receive), CompletionRequest(**STREAM), task, "text")
    with pytest.raises(ConnectionResetError):
        await response(scope, receive, send)
    await eventually(lambda: scene.metric("requests_total", finished_reason="abort") == 1)
