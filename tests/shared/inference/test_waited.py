"""Who was refused and has waited as told is accepted where newcomers are not, whichever way its texts take."""

import asyncio

import pytest

from onecard.errors import TooBusy
from onecard.inference.requests import INLINE_CHARACTERS
from tests.shared.batching.support import SumEngine, blocking_device, open_batcher
from tests.shared.cache.support import eventually
from tests.shared.inference.support import ask, inference_over

LONG = "7 " * INLINE_CHARACTERS


@pytest.mark.parametrize("inputs", [[[7]], ["7"], [LONG]], ids=["token ids", "text", "long text"])
@pytest.mark.parametrize("cached", [True, False])
async def test_there_is_room_for_who_has_waited(cached: bool, inputs: list[str] | list[list[int]]) -> None:
    """Seven seconds are ahead, of a time limit of 20."""
    event, wait = blocking_device()
    engine = SumEngine(wait)
    async with open_batcher(engine, rate=1000, tokens=1000) as at:
        inference = inference_over(at, cached=cached)
        ahead = [asyncio.create_task(at.ask([1] * 1000, seconds=60)) for _ in range(7)]
        await at.waits(6000)
        with pytest.raises(TooBusy):
            await ask(inference, inputs)
        waited = asyncio.create_task(ask(inference, inputs, has_waited=True))
        await eventually(lambda: at.metric("queue_tokens", lane="interactive") > 6000 or waited.done())
        assert not waited.done()
        event.set()
        assert len(await waited) == 1
        await asyncio.gather(*ahead)
