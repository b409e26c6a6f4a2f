"""What a batcher needs of a model."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from onecard.batching.queue import Batch

Result_co = TypeVar("Result_co", covariant=True)


class OutOfMemory(Exception):
    """The batch does not fit the device's memory. A smaller one may."""


class EngineLost(Exception):
    """The device is in a state that only a new process gets out of."""


class RunningBatch(Protocol[Result_co]):
    """A batch that the device has begun."""

    def done(self) -> bool:
        """Whether `result` would not wait."""

    def result(self) -> Sequence[Result_co]:
        """The result of each text, in the batch's order. Blocks until it is there.

        Raises:
            OutOfMemory, EngineLost: as in `launch`.
        """


class Engine(Protocol[Result_co]):
    """A loaded model. All calls come from one thread."""

    def launch(self, batch: Batch) -> RunningBatch[Result_co]:
        """Begin a batch. On a GPU it returns while the device works; on a CPU when the work is done.

        Raises:
            OutOfMemory: the batch does not fit.
            EngineLost: no batch will ever run again in this process.
        """
