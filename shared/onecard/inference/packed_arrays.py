"""Packed batches as NumPy arrays: what every engine reads, torch's or another's. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from onecard.batching.queue import Batch

Int64Array = npt.NDArray[np.int64]

GRAPH_INPUTS = ("input_ids", "position_ids", "text_numbers", "cells", "mask")
"""Inputs of an exported model, in order; `PackedArrays.graph_inputs` describes them."""


@dataclass(frozen=True)
class PackedArrays:
    """A batch as the model reads it: R rows of W tokens, N texts of at most L tokens."""

    rows: Int64Array
    """(3, R, W): token ids; the position of each token in its own text; the number of its text, from 1 (0: padding)."""
    spans: Int64Array
    """(2, N): the start of each text in the concatenated rows; its tokens."""

    @classmethod
    def from_batch(cls, batch: Batch, *, pad_id: int) -> "PackedArrays":
        """Lay out a batch.

        Args:
            batch: token ids and their row layout.
            pad_id: fills the cells that no text covers.

        Returns:
            The arrays.
        """
        width = batch.packing.width
        shape = (len(batch.packing.rows), width)
        lengths = np.array([len(ids) for ids in batch.texts])
        order = np.array([index for row in batch.packing.rows for index in row])
        starts = np.empty_like(lengths)
        starts[order] = [
            row * width + offset
            for row, texts in enumerate(batch.packing.rows)
            for offset in accumulate((int(lengths[text]) for text in texts[:-1]), initial=0)
        ]
        texts = np.repeat(np.arange(len(lengths)), lengths)
        positions = np.arange(len(texts)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        cells = np.zeros((3, shape[0] * width), dtype=np.int64)
        cells[0] = pad_id
        cells[:, starts[texts] + positions] = [
            np.concatenate([np.asarray(ids) for ids in batch.texts]),
            positions,
            texts + 1,
        ]
        return cls(cells.reshape(3, *shape), np.stack([starts, lengths]))

    @property
    def is_full(self) -> bool:
        """Whether every row is one text without padding, so that every token attends to its whole row."""
        _, row_count, width = self.rows.shape
        lengths = self.spans[1]
        return bool(len(lengths) == row_count and lengths.min() == width)

    def graph_inputs(self) -> Mapping[str, Int64Array]:
        """The inputs of an exported model.

        Returns:
            int64 arrays by the names of `GRAPH_INPUTS`: three of (R, W), as in `rows`; `cells` (N, L), the place of
            each token of each text in the concatenated rows; `mask` (N, L), 1 where a token belongs to its text.
        """
        starts, lengths = self.spans
        positions = np.arange(int(lengths.max()))
        mask = positions < lengths[:, None]
        cells = np.where(mask, starts[:, None] + positions, 0)
        return dict(zip(GRAPH_INPUTS, (*self.rows, cells, mask.astype(np.int64)), strict=True))
