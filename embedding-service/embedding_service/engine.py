"""The sentence encoder on its device. The only file of this service that imports torch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer
from torch.nn.functional import normalize

from embedding_service.vectors import VectorCodec
from onecard.batching.queue import Batch, TokenIds
from onecard.gpu.device import Device
from onecard.inference.bfloat16 import linears_to_bfloat16, loading_dtype
from onecard.inference.packed_tensors import PackedTensors, PendingCopy, first_position, translate_device_errors
from onecard.models.folders import ModelFolder

Vector = npt.NDArray[np.float32]


class SentenceEncoder:
    """A sentence-transformers model, loaded."""

    def __init__(self, folder: ModelFolder, device: Device) -> None:
        self._model = SentenceTransformer(
            str(folder.path),
            device=device.name,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"dtype": loading_dtype(device), "attn_implementation": "sdpa", "use_safetensors": True},
        ).eval()
        self._encoder = self._model[0].auto_model
        self._first_position = first_position(self._encoder.config)
        linears_to_bfloat16(self._encoder.encoder, device)
        self._poolers = [self._model[place] for place in range(1, len(self._model))]
        self._device = device
        self._pad_id: int = self._model.tokenizer.pad_token_id or 0
        positions: int = self._encoder.config.max_position_embeddings - self._first_position
        self.window: int = min(self._model.max_seq_length or positions, positions)
        """Most tokens of one text."""
        self.vocab_size: int = self._encoder.config.vocab_size
        """Token ids are below it."""
        if getattr(self._model[0], "do_lower_case", False) or self._model.default_prompt_name:
            raise SystemExit("this model wants its texts changed (lower case, a prompt), which is not done here.")
        self.codec = VectorCodec(len(self.infer_unbatched([self._pad_id])))

    @translate_device_errors
    @torch.inference_mode()
    def launch(self, batch: Batch) -> PendingCopy[Vector]:
        """Unit vector of each text, float32 of shape (size,).

        The model's own modules pool (the token vectors' mean, for Korean SBERT); the vectors are normalised
        in FP32, since dot products of unnormalised ones rank worse.
        """
        rows = PackedTensors.from_batch(batch, pad_id=self._pad_id, device=self._device.name)
        states = self._encoder(
            input_ids=rows.input_ids,
            position_ids=rows.position_ids + self._first_position,
            attention_mask=rows.attention_mask,
        ).last_hidden_state
        tokens, mask = rows.unpack_states(states)
        features: dict[str, Any] = {"token_embeddings": tokens, "attention_mask": mask}
        for pool in self._poolers:
            features = pool(features)
        return PendingCopy(normalize(features["sentence_embedding"].float(), dim=-1), _vectors)

    @torch.inference_mode()
    def infer_unbatched(self, text: TokenIds) -> Vector:
        """What sentence-transformers makes of one text."""
        ids = torch.tensor([list(text)], device=self._device.name)
        vector = self._model({"input_ids": ids, "attention_mask": torch.ones_like(ids)})["sentence_embedding"]
        return _vectors(normalize(vector.float(), dim=-1))[0]

    def is_finite(self, result: Vector) -> bool:
        """Whether each component is a finite number."""
        return bool(np.isfinite(result).all())

    def is_close(self, one: Vector, other: Vector) -> bool:
        """Whether two vectors mean the same: their cosine is at least 0.999."""
        return float(np.dot(one, other)) >= 0.999


def _vectors(results: torch.Tensor) -> Sequence[Vector]:
    vectors: Vector = results.cpu().numpy()
    return list(vectors)
