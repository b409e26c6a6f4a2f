"""Prompts that nobody waits for any more, in the Transformers engine's queue: they keep no place there."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from llm_service.fallback.engine import GenerationTask, TransformersEngine
from llm_service.fallback.generation import Generation, GenerationEnd, GenerationEvent, SamplingParams
from llm_service.fallback.queue import GenerationQueue
from onecard.errors import Unavailable
from tests.llm.conftest import Target
from tests.llm.test_leaving import LONG, asked, running, stream_status, wait_for, waiting
from tests.shared.cache.support import eventually
from tests.support import serving

MAX_WAITING = 3
ONE_TOKEN = SamplingParams(max_tokens=1)


class GatedDecoder:
    """Gives each prompt of a batch one token, once the gate is open."""

    size, steps = 2, 0

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        """The first token of each prompt."""
        self.gate = threading.Event()

    def run(self, generations: Sequence[Generation]) -> None:
        self.batches.append([generation.prompt[0] for generation in generations])
        self.gate.wait()
        for generation in generations:
            generation.end_if_cancelled()
            if generation.open:
                generation.accept(0, ())


class Scene:
    """An engine on that decoder, its metrics, and its clients."""

    def __init__(self, max_waiting: int = MAX_WAITING) -> None:
        self.decoder, self.registry = GatedDecoder(), CollectorRegistry()
        tokenizer = Tokenizer(WordLevel({"a": 0}, unk_token="a"))

        def new_generation(
            prompt: Sequence[int], params: SamplingParams, emit: Callable[[GenerationEvent], None]
        ) -> Generation:
            return Generation(tokenizer, prompt, params, emit)

        model: Any = SimpleNamespace(decoder=self.decoder, new_generation=new_generation, vocab_size=1, window=9)
        folder: Any = SimpleNamespace(name="a", accepted_names=("a",))
        self.queue = GenerationQueue(model, max_waiting=max_waiting, registry=self.registry)
        self.engine = TransformersEngine(folder, model, self.queue, 0, None, None)  # type: ignore[arg-type]

    def ask(self, *prompts: int) -> asyncio.Task[list[tuple[str, GenerationEnd]]]:
        """A client with prompts of one token."""
        return asyncio.create_task(self.engine.collect(GenerationTask([[prompt] for prompt in prompts], ONE_TOKEN)))

    async def ask_first(self) -> asyncio.Task[list[tuple[str, GenerationEnd]]]:
        """A client whose prompt, 0, is a batch by itself and is being generated."""
        first = self.ask(0)
        await eventually(lambda: self.decoder.batches == [[0]])
        return first

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"onecard_llm_{name}", labels)


@pytest.fixture
def scene() -> Iterator[Scene]:
    built = Scene()
    yield built
    built.decoder.gate.set()
    built.queue.close()


async def leave(*clients: asyncio.Task[list[tuple[str, GenerationEnd]]]) -> None:
    """As the server cancels what a client that has left had asked for."""
    for client in clients:
        client.cancel()
    await asyncio.wait(clients)


async def test_who_leaves_makes_room_at_once(scene: Scene) -> None:
    """Again and again, while one batch is being generated; each is counted once, as aborted."""
    first = await scene.ask_first()
    for _ in range(3):
        crowd = [scene.ask(1, 2), scene.ask(3, 4)]
        await eventually(lambda: scene.metric("requests_waiting") == MAX_WAITING + 1)
        with pytest.raises(Unavailable):
            scene.queue.check_capacity(1)
        await leave(*crowd)
        assert scene.metric("requests_waiting") == 0
        scene.queue.check_capacity(MAX_WAITING + 1)
    assert scene.metric("requests_total", finished_reason="abort") == 12
    assert (scene.metric("requests_running"), scene.metric("prompt_tokens_total")) == (1, 0)
    scene.decoder.gate.set()
    assert [end.reason for _, end in await first] == ["length"]
    await eventually(lambda: scene.metric("requests_running") == 0)
    assert scene.metric("requests_waiting") == 0
    assert scene.metric("requests_total", finished_reason="abort") == 12
    assert scene.metric("prompt_tokens_total") == 1


async def test_a_batch_is_filled_with_prompts_that_somebody_waits_for(scene: Scene) -> None:
    """In their order."""
    await scene.ask_first()
    gone, stays = [scene.ask(1), scene.ask(2)], scene.ask(3, 4)
    await eventually(lambda: scene.metric("requests_waiting") == 4)
    await leave(*gone)
    scene.decoder.gate.set()
    assert [end.reason for _, end in await stays] == ["length", "length"]
    assert scene.decoder.batches == [[0], [3, 4]]


async def test_a_prompt_that_has_begun_is_ended_by_the_model(scene: Scene) -> None:
    """And counted then, with its tokens."""
    first = await scene.ask_first()
    await leave(first)
    assert scene.metric("requests_running") == 1
    assert scene.metric("requests_total", finished_reason="abort") == 0
    scene.decoder.gate.set()
    await eventually(lambda: scene.metric("requests_running") == 0)
    assert scene.metric("requests_total", finished_reason="abort") == 1
    assert (scene.metric("requests_waiting"), scene.metric("prompt_tokens_total")) == (0, 1)


def test_who_leaves_the_queue_of_a_server_makes_room(llm_env: dict[str, str]) -> None:
    """Closed connections: the next ones are not refused while the first is still being answered."""
    env = {**llm_env, "VLLM_ENABLED": "false", "LLM_QUEUE_REQUESTS": "1"}
    long = {**LONG, "max_tokens": 1800}
    with serving("llm_service", port_variable="VLLM_PORT", env=env) as server:
        target = Target("transformers", server.url, server)
        with ThreadPoolExecutor() as pool, target.http() as http:
            with http.stream("POST", "/v1/completions", json={**long, "stream": True}) as first:
                wait_for(running, target, 1)
                for _ in range(2):
                    with asked(target, "/v1/completions", {**long, "prompt": ["a", "b"]}):
                        wait_for(waiting, target, 2)
                    wait_for(waiting, target, 0)
                second = pool.submit(stream_status, target, long)
                wait_for(waiting, target, 1)
                assert running(target) == 1
            assert first.status_code == second.result() == 200
