"""The classifier on its device. No other file of this service imports torch."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

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
from sentiment_service.probabilities import ProbabilityKind

_POSITIVE = frozenset({"positive", "pos", "긍정"})
_NEGATIVE = frozenset({"negative", "neg", "부정"})


def class_indices(id2label: Mapping[int, str]) -> tuple[int, int]:
    """Find the positive and the negative class by their names.

    Args:
        id2label: Label of each class index, as in the model's `config.json`. Case is ignored.

    Returns:
        The index of the positive class, then that of the negative class.

    Raises:
        ValueError: The labels do not name exactly one positive and one negative class.
    """
    positive = [index for index, label in id2label.items() if label.strip().lower() in _POSITIVE]
    negative = [index for index, label in id2label.items() if label.strip().lower() in _NEGATIVE]
    if len(positive) != 1 or len(negative) != 1:
        raise ValueError("the model's labels do not name one positive and one negative class")
    return positive[0], negative[0]


class Classifier(ProbabilityKind):
    """A loaded sequence classifier; an `onecard.inference.warm_up.LoadedEngine` of probabilities."""

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
        self.encoder = self._model.base_model
        linears_to_bfloat16(self.encoder.encoder, device)
        self.by_lengths = attends_by_lengths(self.encoder, device)
        """Whether batches are told by their texts' lengths; if not, by a mask."""
        self._device = device
        self._classes = list(class_indices(model.config.id2label))
        self.pad_id: int = model.config.pad_token_id or 0
        self.window: int = model.config.max_position_embeddings - self._first_position
        """Maximum length of one text in tokens."""
        self.vocab_size: int = model.config.vocab_size
        """Number of token ids; every id is below it."""
        super().__init__()

    @translate_device_errors
    @torch.inference_mode()
    def launch(self, batch: Batch) -> PendingCopy[float]:
        """Start to classify a batch on the device.

        Args:
            batch: Texts as token ids, packed into rows.

        Returns:
            The copy of the results to the host: for each text, in the batch's order, the probability of the positive
            class, computed in float32.

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
        return PendingCopy(self._positive(_logits(self._model, rows.cls_states(states))), torch.Tensor.tolist)

    @torch.inference_mode()
    def infer_unbatched(self, text: TokenIds) -> float:
        """Classify one text with the model's own forward pass, as the reference for `launch`.

        Args:
            text: Token ids, special tokens included.

        Returns:
            Probability of the positive class.
        """
        ids = torch.tensor([list(text)], device=self._device.name)
        return float(self._positive(self._model(input_ids=ids).logits)[0])

    def graph(self) -> nn.Module:
        """The model for export: what `launch` computes, from `PackedArrays.graph_inputs` to probabilities (texts,)."""
        return _Graph(self._model, self._first_position, self._positive)

    def _positive(self, logits: torch.Tensor) -> torch.Tensor:
        """Turn logits, (texts, classes), into the positive class's probability, float32 of shape (texts,)."""
        # The softmax leaves out other classes that the model may have, such as a neutral one.
        return logits[:, self._classes].float().softmax(dim=-1)[:, 0]


class _Graph(nn.Module):
    def __init__(self, model: nn.Module, first_position: int, positive: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self._model = model
        self._first_position = first_position
        self._positive = positive

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        text_numbers: torch.Tensor,
        cells: torch.Tensor,
        mask: torch.Tensor,
    ) -> torch.Tensor:
        del mask  # the heads read only the first token
        encoder: Any = self._model.base_model
        states = packed_states(encoder, input_ids, position_ids + self._first_position, text_numbers)
        return self._positive(_logits(self._model, states.flatten(0, 1)[cells[:, 0]]))


def _logits(model: Any, cls_states: torch.Tensor) -> torch.Tensor:
    """Apply a classifier's heads to the first token of each text, (texts, hidden)."""
    # (texts, 1, hidden): the heads expect rows.
    states = cls_states[:, None]
    if getattr(model.base_model, "pooler", None) is not None:
        states = model.base_model.pooler(states)
    logits: torch.Tensor = model.classifier(states)
    return logits
