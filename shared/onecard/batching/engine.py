"""The interface between a batcher and a model."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from onecard.batching.queue import Batch

Result_co = TypeVar("Result_co", covariant=True)


class OutOfMemory(Exception):
    """The batch does not fit into the device's memory. A smaller one may."""


class EngineLost(Exception):
    """The device is in a state from which only a new process recovers."""


class RunningBatch(Protocol[Result_co]):
    """A batch that the device is running."""

    def done(self) -> bool:
        """Whether `result` returns without blocking."""

    def result(self) -> Sequence[Result_co]:
        """Wait for the batch.

        Returns:
            The result of each text, in the batch's order.

        Raises:
            OutOfMemory: the batch does not fit.
            EngineLost: no batch will ever run again in this process.
        """


class Engine(Protocol[Result_co]):
    """A loaded model. All its calls come from one thread."""

    def launch(self, batch: Batch) -> RunningBatch[Result_co]:
        """Start a batch. On a GPU this returns while the device works, on a CPU when the work is done.

        Args:
            batch: token ids and their row layout.

        Returns:
            A handle to wait for the results.

        Raises:
            OutOfMemory: the batch does not fit.
            EngineLost: no batch will ever run again in this process.
        """
