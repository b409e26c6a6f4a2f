"""An exported model as the batcher's engine."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy.typing as npt

from onecard.batching.queue import Batch, TokenIds
from onecard.cache.serialization import Codec
from onecard.inference.packed_arrays import Int64Array, PackedArrays

Result = TypeVar("Result")


def thread_count() -> int:
    """How many threads an engine may use: `OMP_NUM_THREADS`; 0, the library's own choice, if that is no number."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return int(threads) if threads.isdigit() else 0


class GraphRunner(Protocol):
    """A graph loaded by an engine's library. All its calls come from one thread."""

    def run(self, inputs: Mapping[str, Int64Array]) -> npt.NDArray[Any]:
        """Run the graph.

        Args:
            inputs: see `PackedArrays.graph_inputs`.

        Returns:
            The result of each text, float32 (N,) or (N, size); the caller's own.

        Raises:
            OutOfMemory: the batch does not fit.
            EngineLost: no batch will ever run again in this process.
        """


class ResultKind(Protocol[Result]):
    """What one result is: a vector, or a probability."""

    @property
    def codec(self) -> Codec[Result, Result]:
        """How the cache encodes one result."""

    def from_array(self, results: npt.NDArray[Any]) -> Sequence[Result]:
        """Split an engine's output into the result of each text."""

    def is_finite(self, result: Result) -> bool:
        """Whether a result consists of finite numbers."""

    def is_close(self, one: Result, other: Result, *, quantised: bool = False) -> bool:
        """Whether two results are equal up to rounding, of half precision or of quantised calculation."""


class Finished(Generic[Result]):
    """The results of a batch that has run; a `RunningBatch`."""

    def __init__(self, results: Sequence[Result]) -> None:
        self._results = results

    def done(self) -> bool:
        """Always True."""
        return True

    def result(self) -> Sequence[Result]:
        """The result of each text, in the batch's order."""
        return self._results


class GraphEngine(Generic[Result]):
    """A `LoadedEngine` that runs a graph without torch."""

    def __init__(
        self,
        runner: GraphRunner,
        kind: ResultKind[Result],
        *,
        window: int,
        vocab_size: int,
        pad_id: int,
        quantised: bool,
    ) -> None:
        """Set the graph and what it reads.

        Args:
            runner: the loaded graph.
            kind: of its results.
            window: most tokens of one text, including special tokens.
            vocab_size: number of token ids.
            pad_id: token id that fills the rows.
            quantised: whether a text's result may change a little with the texts beside it, because ranges of
                activations are measured for a whole batch.
        """
        self._runner = runner
        self._kind = kind
        self._pad_id = pad_id
        self._quantised = quantised
        self.window = window
        self.vocab_size = vocab_size
        self.codec = kind.codec

    def launch(self, batch: Batch) -> Finished[Result]:
        """Run a batch.

        Args:
            batch: token ids and their row layout.

        Returns:
            The results.

        Raises:
            OutOfMemory: the batch does not fit.
            EngineLost: no batch will ever run again in this process.
        """
        arrays = PackedArrays.from_batch(batch, pad_id=self._pad_id)
        return Finished(self._kind.from_array(self._runner.run(arrays.graph_inputs())))

    def infer_unbatched(self, text: TokenIds) -> Result:
        """The result of one text alone in its batch.

        Args:
            text: token ids, special tokens included.

        Returns:
            Its result.
        """
        return self.launch(Batch.from_texts([text])).result()[0]

    def is_finite(self, result: Result) -> bool:
        """Whether a result consists of finite numbers."""
        return self._kind.is_finite(result)

    def is_close(self, one: Result, other: Result) -> bool:
        """Whether two results are equal up to rounding."""
        return self._kind.is_close(one, other, quantised=self._quantised)
