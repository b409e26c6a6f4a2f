"""Requests wait here for the one thread that owns the model."""

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
    """One prompt on its way through the model. Lower priority numbers go first, then earlier arrivals."""

    priority: int
    number: int
    prompt: Sequence[int] = field(compare=False)
    params: SamplingParams = field(compare=False)
    generation: Generation = field(compare=False)
    events: "asyncio.Queue[GenerationEvent]" = field(compare=False)
    loop: asyncio.AbstractEventLoop = field(compare=False)

    def emit(self, event: GenerationEvent) -> None:
        """Hand `event` to the loop that waits for it; called from the model's thread."""
        self.loop.call_soon_threadsafe(self.events.put_nowait, event)


class GenerationQueue:
    """Prompts go through the model one at a time."""

    def __init__(self, model: TextModel, *, most_waiting: int, registry: CollectorRegistry) -> None:
        self._model = model
        self._max_waiting = most_waiting
        self._queue: PriorityQueue[tuple[int, GenerationJob | None]] = PriorityQueue()
        self._sequence = itertools.count()
        self._waiting = 0
        self._running = Gauge("onecard_llm_requests_running", "Prompts being generated.", registry=registry)
        waiting = Gauge("onecard_llm_requests_waiting", "Prompts that wait for their turn.", registry=registry)
        waiting.set_function(lambda: self._waiting)
        self._ended = Counter("onecard_llm_requests", "Prompts ended.", ["finished_reason"], registry=registry)
        for reason in ("stop", "length", "abort", "error"):
            self._ended.labels(reason)  # Shown from the start: a rate needs the zero.
        self._prompt_tokens = Counter("onecard_llm_prompt_tokens", "Tokens read.", registry=registry)
        self._generated_tokens = Counter("onecard_llm_generation_tokens", "Tokens written.", registry=registry)
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()

    def check_capacity(self, prompts: int) -> None:
        """Refuse the request now if its prompts do not fit into the queue.

        Raises:
            InvalidRequest: they would not fit into an empty one either; a client must not try again.
            Unavailable: with the time after which to try again.
        """
        most = self._max_waiting + 1  # One runs at once.
        if prompts > most:
            raise InvalidRequest(f"Prompts times 'n' are {prompts}; at most {most} fit here. Send fewer.")
        if self._waiting + prompts > most:
            raise Unavailable("The queue is full. Try again in a few seconds.", retry_after=5)

    async def generate(
        self, prompt: Sequence[int], params: SamplingParams, *, priority: int = 0
    ) -> AsyncIterator[str | GenerationEnd]:
        """Pieces of text as they come, then how it ended. Closing the iterator ends the work.

        Raises:
            InternalError: the model failed on this prompt.
        """
        events: asyncio.Queue[GenerationEvent] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def emit(text: str) -> None:
            loop.call_soon_threadsafe(events.put_nowait, text)

        run = self._model.new_generation(params, emit)
        self._waiting += 1
        self._queue.put((0, GenerationJob(priority, next(self._sequence), prompt, params, run, events, loop)))
        try:
            while True:
                event = await events.get()
                if event is None:
                    raise InternalError("The engine failed on this request.")
                yield event
                if isinstance(event, GenerationEnd):
                    return
        finally:
            run.cancelled.set()

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
            self._running.dec()  # Last: who sees nothing running sees the counts of what ran.
            job.emit(ended)

    def _on_started(self) -> None:
        self._waiting -= 1

    @property
    def alive(self) -> bool:
        """Whether the model's thread runs."""
        return self._thread.is_alive()

    def close(self) -> None:
        """End the thread after the prompt that it works on."""
        self._queue.put((-1, None))
        self._thread.join(timeout=10)
