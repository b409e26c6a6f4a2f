"""GPU memory that a model needs, calculated from its shape. Pure; nothing is loaded."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from onecard.models.model_files import StoredTensor

GIB = 1024**3
HALF_PRECISION_BYTES = 2
"""Bytes of a number in FP16 or bfloat16."""
_FLOAT_DTYPES = frozenset({"F64", "F32", "F16", "BF16"})
"""Formats that loading converts to the model's precision. All others are quantised weights and stay as stored."""


def loaded_bytes(tensors: Iterable[StoredTensor], bytes_per_number: int) -> int:
    """Size of a model's weights once they are loaded.

    Args:
        tensors: of the model's files.
        bytes_per_number: of the precision that float tensors are converted to; quantised tensors keep their size.

    Returns:
        Bytes.
    """
    return sum(
        tensor.numbers * bytes_per_number if tensor.dtype in _FLOAT_DTYPES else tensor.size_bytes for tensor in tensors
    )


@dataclass(frozen=True)
class DecoderShape:
    """The sizes of a language model that decide what its activations take."""

    hidden: int
    intermediate: int
    """Of the feed-forward layer."""
    vocabulary: int
    bytes_per_number: int = HALF_PRECISION_BYTES
    """Of the activations."""
    tied: bool = False
    """Whether the output layer shares its weights with the input embeddings."""

    @property
    def embedding_bytes(self) -> int:
        """Size of the input embeddings and the output layer, which quantisation leaves as they are."""
        return (1 if self.tied else 2) * self.vocabulary * self.hidden * self.bytes_per_number


@dataclass(frozen=True)
class DecoderCost:
    """Memory of a language model under vLLM."""

    weights_bytes: int
    kv_bytes_per_token: int
    """2 (key and value) × layers × KV heads × head size × bytes of a number."""
    shape: DecoderShape
    window_tokens: int | None = None
    """Longest context of the model; None if its configuration does not say."""

    @classmethod
    def from_figures(
        cls,
        *,
        parameters: float,
        layers: int,
        kv_heads: int,
        head_size: int,
        shape: DecoderShape,
        bytes_per_weight: float = HALF_PRECISION_BYTES,
    ) -> "DecoderCost":
        """Calculate from the figures on a model card, with an FP16 KV cache.

        Args:
            parameters: number of weights.
            layers: number of transformer layers.
            kv_heads: number of key and value heads in a layer.
            head_size: dimension of a head.
            shape: the other sizes.
            bytes_per_weight: of the precision of the weights.

        Returns:
            The cost, without a known window.
        """
        kv = 2 * layers * kv_heads * head_size * HALF_PRECISION_BYTES
        return cls(int(parameters * bytes_per_weight), kv, shape)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], weights_bytes: int, bytes_per_number: int) -> "DecoderCost":
        """Calculate from a model's `config.json`; of a multimodal model, from its `text_config`.

        Args:
            config: the parsed file.
            weights_bytes: size of the loaded weights.
            bytes_per_number: of the precision of the KV cache.

        Returns:
            The cost.

        Raises:
            KeyError: a field is missing.
            TypeError: a field has the wrong type.
            ValueError: a field is not a number.
        """
        text = config.get("text_config", config)
        heads = int(text["num_attention_heads"])
        kv_heads = int(text.get("num_key_value_heads") or heads)
        head_size = int(text.get("head_dim") or int(text["hidden_size"]) // heads)
        kv = 2 * int(text["num_hidden_layers"]) * kv_heads * head_size * bytes_per_number
        window = text.get("max_position_embeddings")
        shape = DecoderShape(
            int(text["hidden_size"]),
            int(text["intermediate_size"]),
            int(text["vocab_size"]),
            bytes_per_number,
            tied=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
        )
        return cls(weights_bytes, kv, shape, None if window is None else int(window))

    def in_full_precision(self) -> "DecoderCost":
        """The cost in FP32 of the same model, if this is its cost in FP16."""
        return replace(
            self,
            weights_bytes=self.weights_bytes * 2,
            kv_bytes_per_token=self.kv_bytes_per_token * 2,
            shape=replace(self.shape, bytes_per_number=2 * self.shape.bytes_per_number),
        )

    def with_kv_in_one_byte(self) -> "DecoderCost":
        """The cost of the same model with an FP8 KV cache."""
        return replace(self, kv_bytes_per_token=self.kv_bytes_per_token // self.shape.bytes_per_number)

    def with_weights_in_one_byte(self) -> "DecoderCost":
        """The cost of the same model after its linear layers are quantised to 8 bits while they are loaded."""
        linear = max(0, self.weights_bytes - self.shape.embedding_bytes)
        return replace(self, weights_bytes=self.weights_bytes - linear + linear // self.shape.bytes_per_number)

    def with_offloaded(self, offloaded_bytes: int) -> "DecoderCost":
        """The cost of the same model with this part of its weights in the host's memory."""
        return replace(self, weights_bytes=max(0, self.weights_bytes - offloaded_bytes))


@dataclass(frozen=True)
class EncoderCost:
    """Memory of a BERT-like encoder under torch."""

    weights_bytes: int
    activation_bytes_per_token: int
    """Peak of one running layer, for each padded token; inference mode frees the activations of earlier layers."""

    @classmethod
    def from_figures(
        cls, *, parameters: float, hidden: int, intermediate: int, bytes_per_number: int = HALF_PRECISION_BYTES
    ) -> "EncoderCost":
        """Calculate from the figures of a model.

        At its peak a layer holds, for each token, its input, the residual and the attention output (3 × hidden), and
        either query, key and value (3 × hidden) or both sides of the feed-forward (2 × intermediate, before and after
        the activation). SDPA and FlashAttention never store all attention scores.

        Args:
            parameters: number of weights.
            hidden: size of the hidden states.
            intermediate: size of the feed-forward layer.
            bytes_per_number: of the precision of weights and activations.

        Returns:
            The cost.
        """
        widest = 3 * hidden + max(3 * hidden, 2 * intermediate)
        return cls(int(parameters * bytes_per_number), widest * bytes_per_number)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], weights_bytes: int, bytes_per_number: int) -> "EncoderCost":
        """Calculate from a model's `config.json`, with BERT's or DistilBERT's field names.

        Args:
            config: the parsed file.
            weights_bytes: size of the loaded weights.
            bytes_per_number: of the precision of the activations.

        Returns:
            The cost.

        Raises:
            KeyError: a field is missing.
            TypeError: a field has the wrong type.
            ValueError: a field is not a number.
        """
        hidden = int(config["hidden_size"] if "hidden_size" in config else config["dim"])
        intermediate = int(config["intermediate_size"] if "intermediate_size" in config else config["hidden_dim"])
        shape = cls.from_figures(
            parameters=0, hidden=hidden, intermediate=intermediate, bytes_per_number=bytes_per_number
        )
        return replace(shape, weights_bytes=weights_bytes)

    def in_full_precision(self) -> "EncoderCost":
        """The cost in FP32 of the same model, if this is its cost in FP16."""
        return EncoderCost(self.weights_bytes * 2, self.activation_bytes_per_token * 2)


_QWEN_7B_SHAPE = DecoderShape(hidden=3584, intermediate=18944, vocabulary=152_064)
QWEN_7B = DecoderCost.from_figures(parameters=7.615616512e9, layers=28, kv_heads=4, head_size=128, shape=_QWEN_7B_SHAPE)
"""Qwen2.5-7B-Instruct in FP16: 14.2 GiB of weights, 57,344 bytes of KV cache for each token."""
QWEN_7B_AWQ = DecoderCost(int(5.2 * GIB), QWEN_7B.kv_bytes_per_token, _QWEN_7B_SHAPE)
"""Qwen2.5-7B-Instruct-AWQ: INT4 weights, 5.2 GiB once loaded; the KV cache stays FP16."""
QWEN_0_5B = DecoderCost.from_figures(
    parameters=494.032768e6,
    layers=24,
    kv_heads=2,
    head_size=64,
    shape=DecoderShape(hidden=896, intermediate=4864, vocabulary=151_936, tied=True),
)
"""Qwen2.5-0.5B-Instruct in FP16: 0.92 GiB of weights, 12,288 bytes of KV cache for each token."""
BERT_BASE = EncoderCost.from_figures(parameters=110.6e6, hidden=768, intermediate=3072)
"""klue/bert-base, on which both Korean encoders are based, in FP16: 0.21 GiB of weights, 16.5 KiB for each token."""
