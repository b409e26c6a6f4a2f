"""Packed batches as tensors, and back. Imports torch; only for engine modules."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, Generic, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import PretrainedConfig

from onecard.batching.engine import EngineLost, OutOfMemory
from onecard.batching.queue import Batch
from onecard.batching.sequence_packing import end_to_end
from onecard.inference.packed_arrays import PackedArrays

Result = TypeVar("Result")
P = ParamSpec("P")
T = TypeVar("T")

_POSITIONS_FROM_ZERO = frozenset({"bert", "electra"})
_POSITIONS_FROM_PADDING = frozenset({"roberta", "xlm-roberta", "camembert"})


@dataclass(frozen=True)
class PackedTensors:
    """A batch as the model reads it: R rows of W tokens, N texts of at most L tokens."""

    input_ids: torch.Tensor
    """int64, (R, W)."""
    position_ids: torch.Tensor
    """Position of each token in its own text, int64, (R, W)."""
    attention: Mapping[str, Any]
    """Arguments of the encoder that say which token attends to which: a mask, bool, (R, 1, W, W), or None if every
    token attends to its whole row; or the texts' cumulative lengths, int32, (N + 1,), and the greatest length."""
    starts: torch.Tensor
    """Start of each text in the concatenated rows, int64, (N,)."""
    lengths: torch.Tensor
    """Tokens of each text, int64, (N,)."""
    max_length: int
    """L, known on the host: reading it from the device would wait for all running work."""

    @classmethod
    def from_batch(cls, batch: Batch, *, pad_id: int, device: str, by_lengths: bool = False) -> "PackedTensors":
        """Lay out a batch and copy it to the device.

        Args:
            batch: token ids and their row layout.
            pad_id: fills the cells that no text covers.
            device: a torch device.
            by_lengths: lay all texts end to end in one row (R is 1), for an encoder that `attends_by_lengths`.

        Returns:
            The tensors on `device`.
        """
        if by_lengths:
            batch = replace(batch, packing=end_to_end([len(text) for text in batch.texts]))
        arrays = PackedArrays.from_batch(batch, pad_id=pad_id)
        on_device = _copy_to_device(arrays.rows, device)
        spans = _copy_to_device(arrays.spans, device)
        longest = int(arrays.spans[1].max())
        attention: dict[str, Any] = {"attention_mask": None}
        if by_lengths:
            ends = nn.functional.pad(spans[1].cumsum(0, dtype=torch.int32), (1, 0))
            attention |= {f"cu_seq_lens_{of}": ends for of in "qk"} | {f"max_length_{of}": longest for of in "qk"}
        elif not arrays.is_full:
            attention["attention_mask"] = on_device[2][:, None, :, None] == on_device[2][:, None, None, :]
        return cls(on_device[0], on_device[1], attention, spans[0], spans[1], longest)

    def cls_states(self, states: torch.Tensor) -> torch.Tensor:
        """Take the first token of each text (BERT's [CLS]).

        Args:
            states: (R, W, size).

        Returns:
            (N, size), same dtype.
        """
        return states.flatten(0, 1)[self.starts]

    def unpack_states(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Separate the texts, as poolers expect them.

        N × L is at most the batch's texts × the model's window, which is the size of the plan's largest batch in
        tokens.

        Args:
            states: (R, W, size).

        Returns:
            States (N, L, size) of the same dtype, and a mask int64 (N, L) that is 1 where a token belongs to a text.
        """
        positions = torch.arange(self.max_length, device=states.device)
        mask = positions < self.lengths[:, None]
        cells = torch.where(mask, self.starts[:, None] + positions, 0)
        return states.flatten(0, 1)[cells], mask.long()


MASKED_SCORE = -30_000.0
"""Added to the attention scores of other texts' tokens. FP16 can hold it, and its exponential is 0 in every format."""


def packed_states(
    encoder: nn.Module, input_ids: torch.Tensor, position_ids: torch.Tensor, text_numbers: torch.Tensor
) -> torch.Tensor:
    """Run an encoder on packed rows with a mask computed from text numbers, for export.

    Args:
        encoder: of the BERT or RoBERTa family.
        input_ids: int64 (R, W).
        position_ids: as the encoder counts them, int64 (R, W).
        text_numbers: int64 (R, W); a token attends to those of its own number.

    Returns:
        States, (R, W, hidden).
    """
    same_text = text_numbers[:, None, :, None] == text_numbers[:, None, None, :]
    # Numbers instead of booleans, and none infinite: then the graph has no check for rows that may see nothing, and
    # OpenVINO takes the whole of attention as one operation.
    mask = torch.where(same_text, 0.0, MASKED_SCORE)
    states: torch.Tensor = encoder(
        input_ids=input_ids, position_ids=position_ids, attention_mask=mask
    ).last_hidden_state
    return states


def first_position(config: PretrainedConfig) -> int:
    """The position id of a text's first token: 0 for BERT; RoBERTa counts on from its padding id.

    Args:
        config: of the model.

    Returns:
        The position id.

    Raises:
        SystemExit: it is unknown for this type of model.
    """
    if config.model_type in _POSITIONS_FROM_PADDING:
        return int(config.pad_token_id) + 1
    if config.model_type in _POSITIONS_FROM_ZERO:
        return 0
    known = ", ".join(sorted(_POSITIONS_FROM_ZERO | _POSITIONS_FROM_PADDING))
    raise SystemExit(f"a model of type {config.model_type} cannot be served here; these can: {known}.")


def _copy_to_device(array: npt.NDArray[np.int64], device: str) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    # A copy from pinned memory does not wait for the GPU's running work.
    return tensor.pin_memory().to(device, non_blocking=True) if device.startswith("cuda") else tensor


def translate_device_errors(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function so that torch's errors become those of `onecard.batching.engine`.

    They are raised after torch's own error is gone: it would keep the failed batch's tensors alive, and the smaller
    batch that follows would find the GPU just as full.

    Args:
        function: runs on the device.

    Returns:
        The decorated function.

    Raises:
        OutOfMemory: the device's memory, or this process's share of it, is full.
        EngineLost: CUDA reports a fault that lasts until the process ends.
    """

    @wraps(function)
    def run(*args: P.args, **options: P.kwargs) -> T:
        try:
            return function(*args, **options)
        except torch.OutOfMemoryError as error:
            message = str(error)
        except torch.AcceleratorError as error:
            message = str(error)
            if "out of memory" not in message:
                raise EngineLost(message) from error
        except RuntimeError as error:
            message = str(error)
            if "DefaultCPUAllocator" not in message:
                raise
        raise OutOfMemory(message)

    return run


class PendingCopy(Generic[Result]):
    """A batch's results while they are copied from the device: one asynchronous copy, waited for on demand."""

    def __init__(self, results: torch.Tensor, unpack: Callable[[torch.Tensor], Sequence[Result]]) -> None:
        """Start the copy.

        Args:
            results: of the whole batch, on any device.
            unpack: turns the copy, on the CPU, into the result of each text.
        """
        self._unpack = unpack
        self._event: torch.cuda.Event | None = None
        self._results = results
        if results.is_cuda:
            self._results = torch.empty(results.shape, dtype=results.dtype, pin_memory=True)
            self._results.copy_(results, non_blocking=True)
            # The stream belongs to the results' device, whatever this thread's current device is.
            self._event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._event.record(torch.cuda.current_stream(results.device))

    def done(self) -> bool:
        """Whether the copy is complete."""
        return self._event is None or bool(self._event.query())  # type: ignore[no-untyped-call]

    @translate_device_errors
    def result(self) -> Sequence[Result]:
        """Wait for the copy.

        Returns:
            The result of each text, in the batch's order.

        Raises:
            OutOfMemory: the device's memory is full.
            EngineLost: CUDA reports a fault that lasts until the process ends.
        """
        if self._event is not None:
            self._event.synchronize()
        return self._unpack(self._results)
