"""The queue in front of the model. One thread owns the model and takes waiting prompts in batches."""

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from heapq import heapify
from queue import Empty, PriorityQueue

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge

from llm_service.canary import CANARY_PRIORITY
from llm_service.fallback.generation import Generation, GenerationEnd, GenerationEvent, SamplingParams
from llm_service.fallback.text_model import TextModel
from onecard import logs
from onecard.errors import InternalError, InvalidRequest, OnecardError, Unavailable

RETRY_AFTER_SECONDS = 15
"""`Retry-After` while the process is restarted."""
_RESTARTING = "The model is being restarted. Try again shortly."
_FIRST = 2 * CANARY_PRIORITY
"""Priority of the end: before everything that waits."""

log = logs.logger()


@dataclass(eq=False)
class GenerationJob:
    """One prompt in the queue, and the way back to its request."""

    generation: Generation
    events: "asyncio.Queue[GenerationEvent]"
    loop: asyncio.AbstractEventLoop
    withdraw: "Callable[[GenerationJob], bool]"
    """Takes it out of the queue; returns whether it was still there."""
    started: bool = False
    """Whether the model's thread has taken it."""

    def cancel(self) -> None:
        """End it early, because nobody wants it any more. One that waits leaves the queue at once."""
        self.generation.cancelled.set()
        if self.withdraw(self):
            self.generation.end_if_cancelled()  # Otherwise the model's thread ends it.

    def emit(self, event: GenerationEvent) -> None:
        """Send an event to the request's event loop. Called on any thread."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.events.put_nowait, event)

    async def pieces(self) -> AsyncIterator[str | GenerationEnd]:
        """Stream the text. Closing the iterator cancels the generation.

        Yields:
            Pieces of text as they are generated, then the end.

        Raises:
            OnecardError: The model failed on this prompt.
        """
        try:
            while True:
                event = await self.events.get()
                if isinstance(event, OnecardError):
                    raise event
                yield event
                if isinstance(event, GenerationEnd):
                    return
        finally:
            self.cancel()


Work = GenerationJob | Callable[[], None] | None
"""A prompt, a function to call on the model's thread, or None for the end."""


class WorkQueue(PriorityQueue[tuple[int, int, Work]]):
    """Work by priority and age. A prompt can be taken out before its turn."""

    @property
    def prompts(self) -> int:
        """Number of prompts that wait."""
        with self.mutex:
            return sum(isinstance(work, GenerationJob) for *_, work in self.queue)

    def remove(self, job: GenerationJob) -> bool:
        """Take out a prompt.

        Args:
            job: The prompt.

        Returns:
            Whether it was still there: only then does it belong to the caller, and not to the model's thread.
        """
        with self.mutex:
            others = [entry for entry in self.queue if entry[2] is not job]
            found = len(others) < len(self.queue)
            if found:
                heapify(others)
                self.queue = others
            return found


class GenerationQueue:
    """Runs prompts through the model, by priority, as many at a time as fit into a batch."""

    def __init__(self, model: TextModel, *, max_waiting: int, registry: CollectorRegistry) -> None:
        self._model = model
        self._max_waiting = max_waiting
        self._queue = WorkQueue()
        self._sequence = itertools.count(1)
        self._jobs: set[GenerationJob] = set()
        self._lost = False
        self._calls = 0
        self._running = Gauge("onecard_llm_requests_running", "Prompts being generated.", registry=registry)
        self._ended = Counter(
            "onecard_llm_requests", "Prompts finished, by reason.", ["finished_reason"], registry=registry
        )
        for reason in ("stop", "length", "abort", "error"):
            self._ended.labels(reason)  # Exported as 0 from the start, so that `rate` sees the first increase.
        self._prompt_tokens = Counter("onecard_llm_prompt_tokens", "Tokens of prompts.", registry=registry)
        self._generated_tokens = Counter("onecard_llm_generation_tokens", "Tokens generated.", registry=registry)
        waiting = Gauge("onecard_llm_requests_waiting", "Prompts in the queue.", registry=registry)
        waiting.set_function(lambda: self._queue.prompts)
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()

    def check_capacity(self, prompts: int) -> None:
        """Check that the prompts of a request fit into the queue, before any of them is queued.

        Args:
            prompts: Number of prompts times `n`.

        Raises:
            InvalidRequest: They would not fit even if the queue was empty, so a retry cannot succeed.
            Unavailable: The queue is too full now, or the model hangs. The error has a time after which to retry.
        """
        max_prompts = self._max_waiting + 1  # One runs at once.
        if prompts > max_prompts:
            raise InvalidRequest(f"Prompts times 'n' are {prompts}; at most {max_prompts} fit here. Send fewer.")
        if self._lost:
            raise Unavailable(_RESTARTING, retry_after=RETRY_AFTER_SECONDS)
        if self._queue.prompts + prompts > max_prompts:
            raise Unavailable("The queue is full. Try again in a few seconds.", retry_after=5)

    def submit(self, prompt: Sequence[int], params: SamplingParams, *, priority: int = 0) -> GenerationJob:
        """Queue a prompt. Read and close its `pieces` afterwards.

        Args:
            prompt: Token ids.
            params: How to continue it.
            priority: Lower numbers are served first; 0 as in vLLM if the request has none.

        Returns:
            The job.
        """

        def emit(event: GenerationEvent) -> None:
            if not isinstance(event, str):
                self._on_closed(job, event)
            job.emit(event)

        generation = self._model.new_generation(prompt, params, emit)
        job = GenerationJob(generation, asyncio.Queue(), asyncio.get_running_loop(), self._queue.remove)
        self._jobs.add(job)
        self._queue.put((priority, next(self._sequence), job))
        return job

    async def logprobs(self, ids: Sequence[int]) -> list[float]:
        """Compute `TextModel.logprobs` before all prompts that wait; no traffic, so nothing is counted.

        Args:
            ids: Token ids, at least two.

        Returns:
            The natural logarithm of the probability of each token after the first.

        Raises:
            InternalError: The model failed.
            Unavailable: Memory ran out, as it may beside a large batch; that says nothing about the model.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[float]] = loop.create_future()

        def finish(result: list[float] | OnecardError) -> None:
            if answer.done():
                return
            if isinstance(result, OnecardError):
                answer.set_exception(result)
            else:
                answer.set_result(result)

        def compute() -> None:
            result: list[float] | OnecardError
            try:
                result = self._model.logprobs(ids)
            except torch.OutOfMemoryError:
                result = Unavailable("A canary does not fit into memory now.", retry_after=5)
            except Exception:
                log.exception("a canary failed")
                result = InternalError("The engine failed on a canary.")
            if not loop.is_closed():
                loop.call_soon_threadsafe(finish, result)

        self._queue.put((CANARY_PRIORITY, next(self._sequence), compute))
        return await answer

    @property
    def progress(self) -> int:
        """A counter of progress: forward passes and canaries; on a CPU also seconds that the process has computed.

        On a CPU one pass may take longer than a hang may last. On a GPU computing time says nothing, since a thread
        that waits for a GPU spins.
        """
        seconds = 0 if self._model.device.name.startswith("cuda") else int(time.process_time())
        return self._model.decoder.steps + self._calls + seconds

    def give_up(self) -> None:
        """Fail all prompts, because the model hangs; accept no others."""
        self._lost = True
        for job in list(self._jobs):
            # First, since the end that cancelling may bring says nothing to the client.
            job.emit(Unavailable(_RESTARTING, retry_after=RETRY_AFTER_SECONDS))
            job.cancel()

    def _run(self) -> None:
        while (work := self._queue.get()[2]) is not None:
            if isinstance(work, GenerationJob):
                self._run_batch([work, *self._more_prompts()])
            else:
                work()
                self._calls += 1

    def _more_prompts(self) -> list[GenerationJob]:
        """Prompts that wait, up to the size of a batch; none beyond a function or the end."""
        found: list[GenerationJob] = []
        while len(found) < self._model.decoder.size - 1:
            try:
                entry = self._queue.get_nowait()
            except Empty:
                break
            if not isinstance(entry[2], GenerationJob):
                self._queue.put(entry)
                break
            found.append(entry[2])
        return found

    def _run_batch(self, jobs: Sequence[GenerationJob]) -> None:
        for job in jobs:
            job.started = True
        self._running.inc(len(jobs))
        generations = [job.generation for job in jobs]
        try:
            self._model.decoder.run(generations)
        except Exception:
            log.exception("a batch failed", prompts=len(jobs))
            for generation in generations:
                generation.fail(InternalError("The engine failed on this request."))

    def _on_closed(self, job: GenerationJob, event: GenerationEnd | OnecardError) -> None:
        """Count a prompt that has ended or failed. Called on the model's thread, or where it was cancelled."""
        self._jobs.discard(job)
        self._ended.labels(event.reason if isinstance(event, GenerationEnd) else "error").inc()
        if not job.started:
            return
        self._prompt_tokens.inc(len(job.generation.prompt))
        self._generated_tokens.inc(len(job.generation.written))
        self._running.dec()  # Last: once the gauge is 0, the counters include every finished prompt.

    @property
    def alive(self) -> bool:
        """Whether the model's thread is running, and not given up."""
        return self._thread.is_alive() and not self._lost

    def close(self) -> None:
        """End the thread after its current batch. Blocks for at most 10 seconds."""
        self._queue.put((_FIRST, 0, None))
        self._thread.join(timeout=10)
