"""Rows of texts as tensors, and back. Imports torch; for engine files only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import accumulate
from typing import Generic, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from transformers import PretrainedConfig

from onecard.batching.engine import EngineLost, OutOfMemory
from onecard.batching.queue import Batch

Result = TypeVar("Result")
P = ParamSpec("P")
T = TypeVar("T")

_POSITIONS_FROM_ZERO = frozenset({"bert", "electra"})
_POSITIONS_FROM_PADDING = frozenset({"roberta", "xlm-roberta", "camembert"})


@dataclass(frozen=True)
class PackedTensors:
    """A batch as a model reads it. R rows of W tokens, N texts of at most L tokens."""

    input_ids: torch.Tensor
    """int64, (R, W)."""
    position_ids: torch.Tensor
    """Place of each token in its own text, int64, (R, W)."""
    attention_mask: torch.Tensor | None
    """Which token sees which, bool, (R, 1, W, W); None when every token sees its whole row."""
    starts: torch.Tensor
    """Where each text begins, in the rows laid end to end, int64, (N,)."""
    lengths: torch.Tensor
    """Tokens of each text, int64, (N,)."""
    max_length: int
    """L. Known on the host: asking the device for it would wait for all that it has begun."""

    @classmethod
    def from_batch(cls, batch: Batch, *, pad_id: int, device: str) -> "PackedTensors":
        """On `device`. `pad_id` fills what no text covers."""
        width = batch.packing.width
        shape = (len(batch.packing.rows), width)
        lengths = np.array([len(ids) for ids in batch.texts])
        order = np.array([index for row in batch.packing.rows for index in row])
        starts = np.empty_like(lengths)
        starts[order] = [
            row * width + before
            for row, texts in enumerate(batch.packing.rows)
            for before in accumulate((int(lengths[text]) for text in texts[:-1]), initial=0)
        ]
        texts = np.repeat(np.arange(len(lengths)), lengths)
        places = np.arange(len(texts)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        cells = np.zeros((3, shape[0] * width), dtype=np.int64)
        cells[0] = pad_id
        cells[:, starts[texts] + places] = [np.concatenate([np.asarray(ids) for ids in batch.texts]), places, texts + 1]
        moved = _copy_to_device(cells.reshape(3, *shape), device)
        full = len(batch.texts) == shape[0] and int(lengths.min()) == width
        mask = None if full else (moved[2][:, None, :, None] == moved[2][:, None, None, :])
        where = _copy_to_device(np.stack([starts, lengths]), device)
        return cls(moved[0], moved[1], mask, where[0], where[1], int(lengths.max()))

    def cls_states(self, states: torch.Tensor) -> torch.Tensor:
        """Each text's first token out of `states` (R, W, size): (N, size)."""
        return states.flatten(0, 1)[self.starts]

    def unpack_states(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Each text on its own out of `states` (R, W, size), as poolers expect it.

        Returns:
            States (N, L, size), and the int64 mask (N, L) that says what of them is text. N × L is at most the
            batch's texts × the model's window, which is what the plan's largest batch has in tokens.
        """
        places = torch.arange(self.max_length, device=states.device)
        mask = places < self.lengths[:, None]
        cells = torch.where(mask, self.starts[:, None] + places, 0)
        return states.flatten(0, 1)[cells], mask.long()


def first_position(config: PretrainedConfig) -> int:
    """The position that a model gives to a text's first token: 0, as BERT does; RoBERTa counts on from its padding.

    Raises:
        SystemExit: neither is known of this kind of model.
    """
    if config.model_type in _POSITIONS_FROM_PADDING:
        return int(config.pad_token_id) + 1
    if config.model_type in _POSITIONS_FROM_ZERO:
        return 0
    known = ", ".join(sorted(_POSITIONS_FROM_ZERO | _POSITIONS_FROM_PADDING))
    raise SystemExit(f"a model of type {config.model_type} cannot be served here; these can: {known}.")


def _copy_to_device(array: npt.NDArray[np.int64], device: str) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    # From pinned memory the copy does not wait for what the GPU is doing.
    return tensor.pin_memory().to(device, non_blocking=True) if device.startswith("cuda") else tensor


def translate_device_errors(function: Callable[P, T]) -> Callable[P, T]:
    """Make torch's errors in `function` those that a batcher knows.

    They are raised when torch's own error is gone: it, or a context manager's frame, would keep the failed batch's
    tensors alive, and the smaller batch that follows would find the card as full as the first.

    Raises:
        OutOfMemory: the device's memory, or this process's share of it, is full.
        EngineLost: CUDA reports a fault that stays until the process ends.
    """

    @wraps(function)
    def run(*args: P.args, **options: P.kwargs) -> T:
        try:
            return function(*args, **options)
        except torch.OutOfMemoryError as error:
            full = str(error)
        except torch.AcceleratorError as error:
            full = str(error)
            if "out of memory" not in full:
                raise EngineLost(full) from error
        except RuntimeError as error:
            full = str(error)
            if "DefaultCPUAllocator" not in full:
                raise
        raise OutOfMemory(full)

    return run


class PendingCopy(Generic[Result]):
    """A batch's results on their way from the device: one copy, waited for only when they are asked for."""

    def __init__(self, results: torch.Tensor, unpack: Callable[[torch.Tensor], Sequence[Result]]) -> None:
        self._unpack = unpack
        self._event: torch.cuda.Event | None = None
        self._results = results
        if results.is_cuda:
            self._results = torch.empty(results.shape, dtype=results.dtype, pin_memory=True)
            self._results.copy_(results, non_blocking=True)
            # The stream is that of the results' device, whichever this thread's current device is.
            self._event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._event.record(torch.cuda.current_stream(results.device))

    def done(self) -> bool:
        """Whether the copy has arrived."""
        return self._event is None or bool(self._event.query())  # type: ignore[no-untyped-call]

    @translate_device_errors
    def result(self) -> Sequence[Result]:
        """The results; waits for them."""
        if self._event is not None:
            self._event.synchronize()
        return self._unpack(self._results)
