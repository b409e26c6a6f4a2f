"""A stream of the Transformers engine that fails when it has begun."""

import json
from collections.abc import AsyncIterator
from typing import Any, cast

from llm_service.fallback.engine import GenerationTask, TransformersEngine
from llm_service.fallback.responses import ResponseBuilder
from llm_service.fallback.routes import _stream
from onecard.errors import InternalError


class Failing:
    """A service whose model fails after a word: no prompt makes the real one fail."""

    async def generate(self, _: GenerationTask) -> AsyncIterator[tuple[int, str]]:
        yield 0, "국물이"
        raise InternalError("The engine failed on this request.")


async def test_a_failure_is_the_last_event() -> None:
    """In the one shape; `[DONE]` would say that the answer is whole."""
    answer = ResponseBuilder("chat", "r-1", "a", 0, 1)
    service, work = cast(TransformersEngine, Failing()), cast(GenerationTask, None)
    events: list[Any] = [event async for event in _stream(service, work, answer, include_usage=True)]
    assert b"[DONE]" not in b"".join(events)
    assert set(json.loads(events[-1].removeprefix(b"data: "))["error"]) == {"message", "type", "param", "code"}
