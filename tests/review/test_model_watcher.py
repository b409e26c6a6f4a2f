"""How often the LLM service is asked which model it has, without a network."""

import asyncio

import httpx2 as httpx
import pytest

from onecard.models.identity import MODEL_HEADER, ModelIdentity
from review_service.insight.model_watcher import CHANGING_POLL_SECONDS, POLL_SECONDS, ModelWatcher

CANNED = {MODEL_HEADER: ModelIdentity("canned", "r1", "0" * 16).header_value()}
OTHER = {MODEL_HEADER: ModelIdentity("other", "r1", "0" * 16).header_value()}


async def test_the_llm_is_asked_often_only_while_something_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes up, has another model, goes away; in between, and while it is away, it is asked from time to time."""
    answers = iter([None, None, CANNED, CANNED, CANNED, OTHER, OTHER, None, None])
    pauses = list[float]()

    async def answer(_: httpx.Request) -> httpx.Response:
        if (headers := next(answers)) is None:
            raise httpx.ConnectError("")
        return httpx.Response(200, headers=headers)

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 9:
            raise asyncio.CancelledError

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        watcher = ModelWatcher(["http://llm"], client)
        await watcher.poll()
        monkeypatch.setattr(asyncio, "sleep", pause)
        with pytest.raises(asyncio.CancelledError):
            await watcher.poll_forever()
    changed = [False, False, True, False, False, True, False, True, False]
    assert pauses == [CHANGING_POLL_SECONDS if found else POLL_SECONDS for found in changed]
