"""The sentence encoder on its device. No other file of this service imports torch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer
from torch import nn
from torch.nn.functional import normalize

from embedding_service.vectors import VectorKind
from onecard.batching.queue import Batch, TokenIds
from onecard.gpu.device import Device
from onecard.inference.bfloat16 import linears_to_bfloat16, loading_dtype
from onecard.inference.flash_attention import attends_by_lengths
from onecard.inference.packed_tensors import (
    PackedTensors,
    PendingCopy,
    first_position,
    packed_states,
    translate_device_errors,
)
from onecard.models.folders import ModelFolder

Vector = npt.NDArray[np.float32]


class SentenceEncoder(VectorKind):
    """A loaded sentence-transformers model; an `onecard.inference.warm_up.LoadedEngine` of vectors."""

    def __init__(self, folder: ModelFolder, device: Device) -> None:
        self._model = SentenceTransformer(
            str(folder.path),
            device=device.name,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"dtype": loading_dtype(device), "attn_implementation": "sdpa", "use_safetensors": True},
        ).eval()
        self.encoder = self._model[0].auto_model
        self._first_position = first_position(self.encoder.config)
        linears_to_bfloat16(self.encoder.encoder, device)
        self.by_lengths = attends_by_lengths(self.encoder, device)
        """Whether batches are told by their texts' lengths; if not, by a mask."""
        self._poolers = [self._model[index] for index in range(1, len(self._model))]
        self._device = device
        self.pad_id: int = self._model.tokenizer.pad_token_id or 0
        positions: int = self.encoder.config.max_position_embeddings - self._first_position
        self.window: int = min(self._model.max_seq_length or positions, positions)
        """Maximum length of one text in tokens."""
        self.vocab_size: int = self.encoder.config.vocab_size
        """Number of token ids; every id is below it."""
        if getattr(self._model[0], "do_lower_case", False):
            raise SystemExit("this model wants its texts in lower case, which is not done here.")
        super().__init__(len(self.infer_unbatched([self.pad_id])))

    @translate_device_errors
    @torch.inference_mode()
    def launch(self, batch: Batch) -> PendingCopy[Vector]:
        """Start to embed a batch on the device.

        The model's own modules do the pooling (for Korean SBERT the mean of the token vectors). The vectors are then
        normalised in float32, because dot products of vectors that are not normalised rank worse.

        Args:
            batch: Texts as token ids, packed into rows.

        Returns:
            The copy of the results to the host: for each text, in the batch's order, a unit vector, float32 of shape
            (size,).

        Raises:
            OutOfMemory: The batch does not fit the device's memory.
            EngineLost: The device cannot run another batch in this process.
        """
        rows = PackedTensors.from_batch(batch, pad_id=self.pad_id, device=self._device.name, by_lengths=self.by_lengths)
        states = self.encoder(
            input_ids=rows.input_ids,
            position_ids=rows.position_ids + self._first_position,
            **rows.attention,
        ).last_hidden_state
        tokens, mask = rows.unpack_states(states)
        features: dict[str, Any] = {"token_embeddings": tokens, "attention_mask": mask}
        for pool in self._poolers:
            features = pool(features)
        return PendingCopy(normalize(features["sentence_embedding"].float(), dim=-1), _vectors)

    @torch.inference_mode()
    def infer_unbatched(self, text: TokenIds) -> Vector:
        """Embed one text with sentence-transformers' own forward pass, as the reference for `launch`.

        Args:
            text: Token ids, special tokens included.

        Returns:
            A unit vector, float32 of shape (size,).
        """
        ids = torch.tensor([list(text)], device=self._device.name)
        vector = self._model({"input_ids": ids, "attention_mask": torch.ones_like(ids)})["sentence_embedding"]
        return _vectors(normalize(vector.float(), dim=-1))[0]

    def graph(self) -> nn.Module:
        """The model for export: what `launch` computes, from `PackedArrays.graph_inputs` to vectors (texts, size)."""
        return _Graph(self.encoder, self._poolers, self._first_position)


class _Graph(nn.Module):
    def __init__(self, encoder: nn.Module, poolers: Sequence[nn.Module], first_position: int) -> None:
        super().__init__()
        self._encoder = encoder
        self._poolers = nn.ModuleList(poolers)
        self._first_position = first_position

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        text_numbers: torch.Tensor,
        cells: torch.Tensor,
        mask: torch.Tensor,
    ) -> torch.Tensor:
        states = packed_states(self._encoder, input_ids, position_ids + self._first_position, text_numbers)
        features: dict[str, Any] = {"token_embeddings": states.flatten(0, 1)[cells], "attention_mask": mask}
        for pool in self._poolers:
            features = pool(features)
        return normalize(features["sentence_embedding"].float(), dim=-1)


def _vectors(results: torch.Tensor) -> Sequence[Vector]:
    """Split (texts, size) into one vector of shape (size,) per text."""
    vectors: Vector = results.cpu().numpy()
    return list(vectors)
