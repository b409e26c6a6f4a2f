"""Long prompts in the Transformers engine keep nobody else waiting while they are tokenised."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.llm.test_cancelled_prompts import Scene
from tests.llm.test_fallback_streams import client_of
from tests.shared.cache.support import eventually

LONG = "국" * 630_000
"""1.9 MB, nearly as much as a body may have."""


class SlowTokenizer:
    """Tokenises once it is let; in a real one that takes a second."""

    def __init__(self, scene: Scene) -> None:
        self.began = 0
        self.goes_on = threading.Event()
        vars(scene.engine.model).update(encode=self.encode, encode_chat=self.encode, max_text_bytes=len(LONG.encode()))

    def encode(self, _: object, **options: Any) -> list[int]:
        self.began += 1
        assert threading.current_thread() is not threading.main_thread()  # It would wait for itself.
        self.goes_on.wait()
        return [0]


@pytest.fixture
def scene() -> Iterator[Scene]:
    """An engine with room for all prompts."""
    built = Scene(max_waiting=8)
    built.decoder.gate.set()
    yield built
    built.queue.close()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/generate", "/tokenize"])
async def test_health_is_answered_while_prompts_are_tokenised(scene: Scene, path: str) -> None:
    """Eight at once, each of 1.9 MB."""
    tokenizer = SlowTokenizer(scene)
    prompt = {"messages": [{"role": "user", "content": LONG}]} if "chat" in path else {"prompt": LONG}
    body = prompt if path == "/tokenize" else {**prompt, "max_tokens": 1}
    async with client_of(scene) as client:
        asked = [asyncio.create_task(client.post(path, json=body)) for _ in range(8)]
        await eventually(lambda: tokenizer.began > 0)
        assert (await client.get("/health/live")).status_code == 200
        assert not any(task.done() for task in asked)
        tokenizer.goes_on.set()
        answers = await asyncio.gather(*asked)
    assert [answer.status_code for answer in answers] == [200] * 8, answers[0].text


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/generate"])
async def test_what_cannot_fit_is_refused_before_it_is_tokenised(scene: Scene, path: str) -> None:
    """Also if no message by itself is too long."""
    tokenizer = SlowTokenizer(scene)
    message = {"role": "user", "content": LONG[1:]}
    body: dict[str, Any] = {"messages": [message, {"role": "assistant", "content": "국물"}]}
    async with client_of(scene) as client:
        answer: httpx.Response = await client.post(path, json=body if "chat" in path else {"prompt": LONG + "국"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "input_too_long"
    assert tokenizer.began == 0
