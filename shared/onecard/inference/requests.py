"""A validated request, and the tokenisation of its inputs off the event loop. Needs the `encoder` extra."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from onecard.batching.batcher import Batcher
from onecard.cache.directives import CachePolicy
from onecard.errors import InvalidRequest
from onecard.inference.scheduling import SchedulingParams
from onecard.inference.tokenization import TextTokenizer, TokenizedText, Truncation

Inputs = Sequence[str] | Sequence[Sequence[int]]
"""Texts, or token ids that the client computed itself."""

INLINE_CHARACTERS = 2_000
"""Shorter inputs are tokenised on the event loop. Measured: 0.01 ms for one review, 1.4 ms for this many characters;
using a thread costs 0.1 ms on an idle loop."""


@dataclass(frozen=True)
class InferenceRequest:
    """A validated request."""

    inputs: Inputs
    truncate: bool
    """Whether texts over the window are cut; otherwise they are an error."""
    scheduling: SchedulingParams
    cache_policy: CachePolicy
    deadline: float
    """Time on `time.monotonic` at which its time limit is over."""
    truncation: Truncation | None = None
    """How it wants its inputs tokenised and cut first, apart from the window."""

    @property
    def remaining_seconds(self) -> float:
        """Until its time limit is over; at least 0."""
        return max(0.0, self.deadline - time.monotonic())


class Tokenization:
    """Tokenises inputs without blocking the event loop."""

    def __init__(self, tokenizer: TextTokenizer, batcher: Batcher[Any]) -> None:
        """Set the tokenizer.

        Args:
            tokenizer: of the model.
            batcher: refuses requests before they are tokenised on a thread.
        """
        self.tokenizer = tokenizer
        self._batcher = batcher
        self._thread_free = asyncio.Semaphore(1)
        """Held while a thread tokenises: the tokenizer is multi-threaded, and the model needs the cores."""

    async def tokenize(self, request: InferenceRequest, positions: Sequence[int]) -> list[TokenizedText]:
        """Tokenise some inputs of a request.

        Args:
            request: has the inputs.
            positions: of the inputs to tokenise.

        Returns:
            Each input, in the order of `positions`.

        Raises:
            InputTooLong: an input is over the window and must not be cut.
            TooBusy: the queue is too long to answer in time.
            DeadlineExceeded: too large to be answered in time even on an idle device.
            Unavailable: the device is lost.
        """
        inputs: Any = [request.inputs[position] for position in positions]
        if not inputs or not isinstance(inputs[0], str):
            return self.tokenizer.truncate(inputs, truncate=request.truncate, positions=positions)
        return await self._run(
            request, inputs, lambda: self.tokenizer.tokenize(inputs, truncate=request.truncate, positions=positions)
        )

    async def truncate(self, request: InferenceRequest, truncation: Truncation) -> list[TokenizedText]:
        """Tokenise the inputs of a request and cut them as it wants.

        Args:
            request: has the inputs.
            truncation: the length, the side that is cut, and special tokens.

        Returns:
            Each input.

        Raises:
            InvalidRequest: a text has no token but special ones, and wants to be without these.
            TooBusy: the queue is too long to answer in time.
            DeadlineExceeded: too large to be answered in time even on an idle device.
            Unavailable: the device is lost.
        """
        inputs = request.inputs
        texts = await self._run(request, inputs, lambda: self.tokenizer.tokenize_truncated(inputs, truncation))
        for index, text in enumerate(texts):
            if not text.ids:
                raise InvalidRequest(f"input[{index}] is empty: without special tokens it has none.", param="input")
        return texts

    async def _run(
        self, request: InferenceRequest, inputs: Inputs, work: Callable[[], list[TokenizedText]]
    ) -> list[TokenizedText]:
        """Do the work for these inputs: short ones at once, others on a thread, of which there is one at a time."""
        if sum(map(len, inputs)) <= INLINE_CHARACTERS:
            return work()
        await self._thread_free.acquire()
        try:
            # Refuse the request now if it would be refused later, before tokenising costs time.
            scheduling = request.scheduling
            self._batcher.check_capacity(
                scheduling.lane, len(inputs), request.remaining_seconds, has_waited=scheduling.has_waited
            )
            running = asyncio.get_running_loop().run_in_executor(None, work)
        except BaseException:
            self._thread_free.release()
            raise
        # A thread cannot be cancelled: it goes on without the request that it works for, and only its end frees it.
        running.add_done_callback(self._on_thread_free)
        return await asyncio.shield(running)

    def _on_thread_free(self, ended: "asyncio.Future[list[TokenizedText]]") -> None:
        self._thread_free.release()
        if not ended.cancelled():
            ended.exception()  # Whoever wanted to hear of it may have left.
