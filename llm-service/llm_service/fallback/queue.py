"""The queue in front of the model. One thread owns the model and takes one prompt at a time."""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from queue import PriorityQueue

from prometheus_client import CollectorRegistry, Counter, Gauge

from llm_service.fallback.text_model import Generation, GenerationEnd, SamplingParams, TextModel
from onecard import logs
from onecard.errors import InternalError, InvalidRequest, Unavailable

log = logs.logger()
GenerationEvent = str | GenerationEnd | None
"""A piece of text, the end, or None for a failure."""


@dataclass(order=True)
class GenerationJob:
    """One prompt in the queue. Jobs are ordered by priority, lower numbers first, then by arrival."""

    priority: int
    number: int
    """Order of arrival."""
    prompt: Sequence[int] = field(compare=False)
    params: SamplingParams = field(compare=False)
    generation: Generation = field(compare=False)
    events: "asyncio.Queue[GenerationEvent]" = field(compare=False)
    loop: asyncio.AbstractEventLoop = field(compare=False)

    def emit(self, event: GenerationEvent) -> None:
        """Send an event to the request's event loop. Called on the model's thread."""
        self.loop.call_soon_threadsafe(self.events.put_nowait, event)


class GenerationQueue:
    """Runs prompts through the model, one at a time, by priority."""

    def __init__(self, model: TextModel, *, max_waiting: int, registry: CollectorRegistry) -> None:
        self._model = model
        self._max_waiting = max_waiting
        self._queue: PriorityQueue[tuple[int, GenerationJob | None]] = PriorityQueue()
        self._sequence = itertools.count()
        self._waiting = 0
        self._running = Gauge("onecard_llm_requests_running", "Prompts being generated.", registry=registry)
        waiting = Gauge("onecard_llm_requests_waiting", "Prompts in the queue.", registry=registry)
        waiting.set_function(lambda: self._waiting)
        self._ended = Counter(
            "onecard_llm_requests", "Prompts finished, by reason.", ["finished_reason"], registry=registry
        )
        for reason in ("stop", "length", "abort", "error"):
            self._ended.labels(reason)  # Exported as 0 from the start, so that `rate` sees the first increase.
        self._prompt_tokens = Counter("onecard_llm_prompt_tokens", "Tokens of prompts.", registry=registry)
        self._generated_tokens = Counter("onecard_llm_generation_tokens", "Tokens generated.", registry=registry)
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()

    def check_capacity(self, prompts: int) -> None:
        """Check that the prompts of a request fit into the queue, before any of them is queued.

        Args:
            prompts: Number of prompts times `n`.

        Raises:
            InvalidRequest: They would not fit even if the queue was empty, so a retry cannot succeed.
            Unavailable: The queue is too full now. The error has a time after which to retry.
        """
        max_prompts = self._max_waiting + 1  # One runs at once.
        if prompts > max_prompts:
            raise InvalidRequest(f"Prompts times 'n' are {prompts}; at most {max_prompts} fit here. Send fewer.")
        if self._waiting + prompts > max_prompts:
            raise Unavailable("The queue is full. Try again in a few seconds.", retry_after=5)

    async def generate(
        self, prompt: Sequence[int], params: SamplingParams, *, priority: int = 0
    ) -> AsyncIterator[str | GenerationEnd]:
        """Queue a prompt and stream its text. Closing the iterator cancels the generation.

        Args:
            prompt: Token ids.
            params: How to continue it.
            priority: Lower numbers are served first; 0 as in vLLM if the request has none.

        Yields:
            Pieces of text as they are generated, then the end.

        Raises:
            InternalError: The model failed on this prompt.
        """
        events: asyncio.Queue[GenerationEvent] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def emit(text: str) -> None:
            loop.call_soon_threadsafe(events.put_nowait, text)

        generation = self._model.new_generation(params, emit)
        self._waiting += 1
        self._queue.put((0, GenerationJob(priority, next(self._sequence), prompt, params, generation, events, loop)))
        try:
            while True:
                event = await events.get()
                if event is None:
                    raise InternalError("The engine failed on this request.")
                yield event
                if isinstance(event, GenerationEnd):
                    return
        finally:
            generation.cancelled.set()

    def _run(self) -> None:
        while (job := self._queue.get()[1]) is not None:
            job.loop.call_soon_threadsafe(self._on_started)
            self._running.inc()
            try:
                ended = self._model.generate(job.prompt, job.params, job.generation)
            except Exception:
                log.exception("a generation failed")
                ended = None
            self._ended.labels(ended.reason if ended else "error").inc()
            self._prompt_tokens.inc(len(job.prompt))
            self._generated_tokens.inc(job.generation.tokens)
            self._running.dec()  # Last: once the gauge is 0, the counters include every finished prompt.
            job.emit(ended)

    def _on_started(self) -> None:
        self._waiting -= 1

    @property
    def alive(self) -> bool:
        """Whether the model's thread is running."""
        return self._thread.is_alive()

    def close(self) -> None:
        """End the thread after its current prompt. Blocks for at most 10 seconds."""
        self._queue.put((-1, None))
        self._thread.join(timeout=10)
