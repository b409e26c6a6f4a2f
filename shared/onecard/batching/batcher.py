"""The async shell round an engine: requests hand in token ids and wait for results."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar

from onecard.batching.policy import pack

Result_co = TypeVar("Result_co", covariant=True)
Result = TypeVar("Result")

TokenIds = Sequence[int]
"""One text as the model reads it, special tokens included."""


class Engine(Protocol[Result_co]):
    """A loaded model."""

    def run(self, batch: Sequence[TokenIds]) -> Sequence[Result_co]:
        """The result of each text, in order. Blocks; called from one thread only."""


class Batcher(Generic[Result]):
    """Runs texts through an engine, in batches, on the one thread that owns the model.

    A request's texts are batched among themselves; batches of different requests take turns on the device.
    """

    def __init__(self, engine: Engine[Result], *, max_texts: int, max_tokens: int) -> None:
        self._engine = engine
        self._max_texts = max_texts
        self._max_tokens = max_tokens
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="device")

    async def submit(self, texts: Sequence[TokenIds]) -> list[Result]:
        """The result of each text, in order.

        When the caller is cancelled, batches that have not started are not run.
        """
        lengths = [len(ids) for ids in texts]
        results: dict[int, Result] = {}
        for batch in pack(lengths, max_texts=self._max_texts, max_tokens=self._max_tokens):
            picked = [texts[index] for index in batch]
            outputs = await asyncio.get_running_loop().run_in_executor(self._worker, self._engine.run, picked)
            results.update(zip(batch, outputs, strict=True))
        return [results[index] for index in range(len(texts))]

    def close(self) -> None:
        """Wait for the running batch and end the thread."""
        self._worker.shutdown(cancel_futures=True)
