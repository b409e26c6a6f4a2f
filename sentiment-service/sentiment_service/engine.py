"""The classifier on its device. The only file of this service that imports torch."""

from collections.abc import Mapping, Sequence

import torch
from transformers import AutoModelForSequenceClassification

from onecard.batching.batcher import TokenIds
from onecard.gpu.device import Device
from onecard.gpu.tensors import pad
from onecard.models import ModelFolder

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
            dtype=device.dtype,
            attn_implementation="sdpa",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
        self._model = model.to(device.name).eval()
        self._device = device
        self._classes = list(class_indices(model.config.id2label))
        self._pad_id: int = model.config.pad_token_id or 0
        self.window: int = model.config.max_position_embeddings
        """Most tokens of one text."""

    @torch.inference_mode()
    def run(self, batch: Sequence[TokenIds]) -> list[float]:
        """Probability of the positive class for each text.

        Classes other than positive and negative, if the model has any, are left out of the softmax, which is
        taken in FP32.
        """
        ids, mask = pad(batch, self._pad_id, self._device.name)
        logits = self._model(input_ids=ids, attention_mask=mask).logits
        probabilities: list[float] = logits[:, self._classes].float().softmax(dim=-1)[:, 0].tolist()
        return probabilities
