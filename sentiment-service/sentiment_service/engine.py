"""The classifier on its device. The only file of this service that imports torch."""

import math
from collections.abc import Mapping

import torch
from transformers import AutoModelForSequenceClassification

from onecard.batching.queue import Batch, TokenIds
from onecard.gpu.device import Device
from onecard.inference.bfloat16 import linears_to_bfloat16, loading_dtype
from onecard.inference.packed_tensors import PackedTensors, PendingCopy, first_position, translate_device_errors
from onecard.models.folders import ModelFolder
from sentiment_service.probabilities import ProbabilityCodec

_POSITIVE = frozenset({"positive", "pos", "긍정"})
_NEGATIVE = frozenset({"negative", "neg", "부정"})


def class_indices(id2label: Mapping[int, str]) -> tuple[int, int]:
    """Indices of the positive and the negative class, found by their names.

    Raises:
        ValueError: the labels do not name exactly one of each.
    """
    positive = [index for index, label in id2label.items() if label.strip().lower() in _POSITIVE]
    negative = [index for index, label in id2label.items() if label.strip().lower() in _NEGATIVE]
    if len(positive) != 1 or len(negative) != 1:
        raise ValueError("the model's labels do not name one positive and one negative class")
    return positive[0], negative[0]


class Classifier:
    """A sequence classifier, loaded."""

    def __init__(self, folder: ModelFolder, device: Device) -> None:
        model = AutoModelForSequenceClassification.from_pretrained(
            folder.path,
            dtype=loading_dtype(device),
            attn_implementation="sdpa",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
        self._first_position = first_position(model.config)
        self._model = model.to(device.name).eval()
        linears_to_bfloat16(self._model.base_model.encoder, device)
        self._device = device
        self._classes = list(class_indices(model.config.id2label))
        self._pad_id: int = model.config.pad_token_id or 0
        self.window: int = model.config.max_position_embeddings - self._first_position
        """Most tokens of one text."""
        self.vocab_size: int = model.config.vocab_size
        """Token ids are below it."""
        self.codec = ProbabilityCodec()

    @translate_device_errors
    @torch.inference_mode()
    def launch(self, batch: Batch) -> PendingCopy[float]:
        """Probability of the positive class for each text."""
        rows = PackedTensors.from_batch(batch, pad_id=self._pad_id, device=self._device.name)
        encoder = self._model.base_model
        states = encoder(
            input_ids=rows.input_ids,
            position_ids=rows.position_ids + self._first_position,
            attention_mask=rows.attention_mask,
        ).last_hidden_state
        firsts = rows.cls_states(states)[:, None]  # (N, 1, size): N texts of one token, which is all that heads look at
        if getattr(encoder, "pooler", None) is not None:
            firsts = encoder.pooler(firsts)
        return PendingCopy(self._positive(self._model.classifier(firsts)), torch.Tensor.tolist)

    @torch.inference_mode()
    def infer_unbatched(self, text: TokenIds) -> float:
        """What the model itself makes of one text."""
        ids = torch.tensor([list(text)], device=self._device.name)
        return float(self._positive(self._model(input_ids=ids).logits)[0])

    def is_finite(self, result: float) -> bool:
        """Whether it is a finite number."""
        return math.isfinite(result)

    def is_close(self, one: float, other: float) -> bool:
        """Whether two probabilities mean the same: they are within 0.01."""
        return abs(one - other) <= 0.01

    def _positive(self, logits: torch.Tensor) -> torch.Tensor:
        """From (N, classes) to the positive class's probability, (N,).

        Classes other than positive and negative, if the model has any, are left out of the softmax, which is
        taken in FP32.
        """
        return logits[:, self._classes].float().softmax(dim=-1)[:, 0]
