"""The sentence encoder on its device. The only file of this service that imports torch."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer

from onecard.batching.batcher import TokenIds
from onecard.gpu.device import Device
from onecard.gpu.tensors import pad
from onecard.models import ModelFolder


class SentenceEncoder:
    """A sentence-transformers model, loaded."""

    def __init__(self, folder: ModelFolder, device: Device) -> None:
        self._model = SentenceTransformer(
            str(folder.path),
            device=device.name,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"dtype": device.dtype, "attn_implementation": "sdpa", "use_safetensors": True},
        ).eval()
        self._device = device
        self._pad_id: int = self._model.tokenizer.pad_token_id or 0
        self.window: int = self._model.max_seq_length
        """Most tokens of one text."""

    @torch.inference_mode()
    def run(self, batch: Sequence[TokenIds]) -> list[npt.NDArray[np.float32]]:
        """Unit vector of each text, float32 of shape (size,).

        The model's own modules pool (the token vectors' mean, for Korean SBERT); the vectors are normalised
        in FP32, since dot products of unnormalised ones rank worse.
        """
        ids, mask = pad(batch, self._pad_id, self._device.name)
        vectors = self._model({"input_ids": ids, "attention_mask": mask})["sentence_embedding"]
        unit: npt.NDArray[np.float32] = torch.nn.functional.normalize(vectors.float(), dim=-1).cpu().numpy()
        return list(unit)
