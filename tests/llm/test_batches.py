"""Batches of the Transformers engine, on the stand-in: what runs together is what would come of each alone."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from llm_service.canary import CANARY_PRIORITY
from llm_service.fallback.app import canary_computation
from llm_service.fallback.decoding import RECOVERY_BATCHES, batch_size
from llm_service.fallback.engine import GenerationTask, TransformersEngine
from llm_service.fallback.generation import GenerationEnd, SamplingParams
from llm_service.fallback.queue import GenerationQueue
from llm_service.fallback.text_model import TextModel
from llm_service.settings import LlmSettings
from onecard.errors import Unavailable
from onecard.gpu.device import Device
from onecard.models import folders
from onecard.web.canary import CanaryFailed
from tests.support import LLM

PROMPTS = [[20 + number, *range(30, 30 + number)] for number in range(20)]
"""Twenty prompts of different lengths."""
GREEDY = SamplingParams(max_tokens=12, temperature=0, repetition_penalty=1.0, ignore_eos=True)


@pytest.fixture(scope="module")
def model(model_cache: Path) -> TextModel:
    """The stand-in in FP32, in which batches round least."""
    settings = LlmSettings(llm_model=LLM, model_cache_path=model_cache, use_gpu=False)
    return TextModel(folders.find("llm", LLM, model_cache), Device("cpu", "float32"), 512, settings)


@pytest.fixture
def engine(model: TextModel) -> Iterator[TransformersEngine]:
    """An engine on that model, whose batches hold 20 prompts."""
    model.decoder.size = model.decoder.largest = 20
    queue = GenerationQueue(model, max_waiting=100, registry=CollectorRegistry())
    yield TransformersEngine(None, model, queue, 0, None, None)  # type: ignore[arg-type]
    queue.close()


class OutOfMemory:
    """Makes the forward pass fail where a GPU's would: torch's own error, which needs a GPU otherwise."""

    def __init__(self, model: Any, *, after: int, prompts: int) -> None:
        self._original, self._after, self._prompts = model.forward, after, prompts
        self.batches: list[int] = []
        model.forward = self

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        rows = len(options["input_ids"])
        self.batches.append(rows)
        if rows > self._prompts and len(self.batches) > self._after:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self._original(*arguments, **options)


async def test_a_model_that_fails_every_canary_is_not_ready(engine: TransformersEngine) -> None:
    """Any error but that of memory, which a large batch beside it may have taken."""
    compute = canary_computation(engine.model, engine.queue)
    await compute()
    model = engine.model._model
    for error, raised in ((RuntimeError("CUDA error"), CanaryFailed), (torch.OutOfMemoryError(), Unavailable)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(model, "forward", Mock(side_effect=error))
            with pytest.raises(raised):
                await compute()
    await compute()


async def written(engine: TransformersEngine, params: SamplingParams) -> list[tuple[str, GenerationEnd]]:
    """What becomes of all prompts. The model begins once they are all queued, so that they share its first batch."""
    queued = threading.Event()
    engine.queue._queue.put((CANARY_PRIORITY, 0, queued.wait))
    asked = asyncio.create_task(engine.collect(GenerationTask(PROMPTS, params)))
    await asyncio.sleep(0)  # It queues all before it waits for the first.
    queued.set()
    return await asked


async def test_twenty_prompts_in_one_batch_are_what_each_is_alone(engine: TransformersEngine) -> None:
    """In the order of the prompts, whatever their lengths; and they did run together."""
    together = await written(engine, GREEDY)
    engine.model.decoder.size = 1
    assert together == await written(engine, GREEDY)


@pytest.mark.parametrize(("fits", "after"), [(10, 4), (5, 7), (3, 0), (1, 5)])
async def test_out_of_memory_in_the_middle_changes_no_answer(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch, fits: int, after: int
) -> None:
    """The batch is halved until it fits, and each prompt goes on from where it was: the same texts, in order."""
    wanted = await written(engine, GREEDY)
    model = engine.model._model
    monkeypatch.setattr(model, "forward", model.forward)
    fault = OutOfMemory(model, after=after, prompts=fits)
    assert await written(engine, GREEDY) == wanted
    assert fault.batches[0] == 20
    assert max(fault.batches[after + 5 :]) < 20
    assert engine.model.decoder.size < 20


async def test_a_prompt_that_does_not_fit_alone_fails_alone(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 503; and batches grow again when there is memory again."""
    model = engine.model._model
    monkeypatch.setattr(model, "forward", model.forward)
    OutOfMemory(model, after=0, prompts=0)
    with pytest.raises(Unavailable, match="does not fit"):
        await engine.collect(GenerationTask([PROMPTS[0]], GREEDY))
    monkeypatch.undo()
    assert engine.model.decoder.size == 1
    for _ in range(5 * RECOVERY_BATCHES + 1):  # The last one shows that the one before is counted.
        await engine.collect(GenerationTask([[20]], SamplingParams(max_tokens=1)))
    assert engine.model.decoder.size == 20


async def test_out_of_memory_changes_no_random_numbers(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A seed gives the same text also where its batch was cut in two meanwhile."""
    seeded = SamplingParams(max_tokens=12, temperature=1.0, seed=3, ignore_eos=True)
    wanted = await written(engine, seeded)
    model = engine.model._model
    monkeypatch.setattr(model, "forward", model.forward)
    OutOfMemory(model, after=5, prompts=10)
    assert await written(engine, seeded) == wanted


async def test_prompts_of_a_model_that_hangs_are_told(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those in the batch, those that wait, and those that come: 503 with a time after which to try again."""
    began, goes_on = threading.Event(), threading.Event()

    def hang(_: object) -> None:
        began.set()
        goes_on.wait()

    monkeypatch.setattr(engine.model.decoder, "run", hang)
    asked = [asyncio.create_task(engine.collect(GenerationTask(PROMPTS, GREEDY))) for _ in range(2)]
    await asyncio.to_thread(began.wait)
    engine.queue.give_up()
    for one in asked:
        with pytest.raises(Unavailable):
            await one
    with pytest.raises(Unavailable):
        engine.queue.check_capacity(1)
    assert not engine.queue.alive
    goes_on.set()


async def test_a_seed_gives_the_same_text_whoever_shares_the_batch(engine: TransformersEngine) -> None:
    """Each prompt has random numbers of its own."""
    params = SamplingParams(max_tokens=8, temperature=1.0, seed=7)
    alone = await engine.collect(GenerationTask([PROMPTS[3]], params))
    others = asyncio.create_task(written(engine, SamplingParams(max_tokens=8, temperature=1.0)))
    assert await engine.collect(GenerationTask([PROMPTS[3]], params)) == alone
    await others


def test_a_batch_by_free_memory() -> None:
    """20, 10 or 5 prompts; one where not even five fit."""
    assert [batch_size(free, 10) for free in (1000, 200, 199, 100, 99, 50, 49, 0)] == [20, 20, 10, 10, 5, 5, 1, 1]


async def test_a_long_text_is_tokenised_beside_others(model: TextModel) -> None:
    """By a thread that does not hold Python's lock, with which the event loop would go round once or twice."""
    tokenised = asyncio.create_task(asyncio.to_thread(model.encode, "국물이 진하고 고기가 부드러워요. " * 40_000))
    rounds = 0
    while not tokenised.done():
        await asyncio.sleep(0.001)  # Long enough for the thread to take the lock.
        rounds += 1
    assert rounds > 10
    assert len(await tokenised) > model.window


@given(st.text(max_size=200))
def test_no_text_that_fits_is_too_long_to_be_tokenised(model: TextModel, text: str) -> None:
    """Each token stands for no more bytes than the bound grants it."""
    assert len(text.encode()) <= len(model.encode(text)) * model.max_text_bytes // model.window
