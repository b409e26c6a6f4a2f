"""What a model costs on the card, from its shape. Pure figures; nothing is loaded."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from onecard.models.model_files import StoredTensor

GIB = 1024**3
HALF_PRECISION_BYTES = 2
"""Bytes of a number in FP16 and bfloat16."""
_FLOAT_DTYPES = frozenset({"F64", "F32", "F16", "BF16"})
"""Formats that a model is converted from when it is loaded. All others are quantised weights, which stay as stored."""


def loaded_bytes(tensors: Iterable[StoredTensor], bytes_per_number: int) -> int:
    """Bytes that a model's weights take once loaded, each number of a plain float format in `bytes_per_number`."""
    return sum(
        tensor.numbers * bytes_per_number if tensor.dtype in _FLOAT_DTYPES else tensor.size_bytes for tensor in tensors
    )


@dataclass(frozen=True)
class DecoderCost:
    """A language model under vLLM."""

    weights_bytes: int
    kv_bytes_per_token: int
    """2 (key and value) × layers × KV heads × head size × bytes of a number."""
    window_tokens: int | None = None
    """Longest context that the model takes, where its configuration says so."""

    @classmethod
    def from_figures(
        cls,
        *,
        parameters: float,
        layers: int,
        kv_heads: int,
        head_size: int,
        bytes_per_weight: float = HALF_PRECISION_BYTES,
    ) -> "DecoderCost":
        """From the model card's figures, with an FP16 KV cache."""
        return cls(int(parameters * bytes_per_weight), 2 * layers * kv_heads * head_size * HALF_PRECISION_BYTES)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], weights_bytes: int, bytes_per_number: int) -> "DecoderCost":
        """From a model's `config.json`; the language model's own part of it where the model also sees or hears.

        Raises:
            KeyError, TypeError, ValueError: it lacks a figure.
        """
        text = config.get("text_config", config)
        heads = int(text["num_attention_heads"])
        kv_heads = int(text.get("num_key_value_heads") or heads)
        head_size = int(text.get("head_dim") or int(text["hidden_size"]) // heads)
        kv = 2 * int(text["num_hidden_layers"]) * kv_heads * head_size * bytes_per_number
        window = text.get("max_position_embeddings")
        return cls(weights_bytes, kv, None if window is None else int(window))

    def in_full_precision(self) -> "DecoderCost":
        """The same model in FP32, if this is its cost in FP16."""
        return replace(self, weights_bytes=self.weights_bytes * 2, kv_bytes_per_token=self.kv_bytes_per_token * 2)


@dataclass(frozen=True)
class EncoderCost:
    """A BERT-like encoder under torch."""

    weights_bytes: int
    activation_bytes_per_token: int
    """Peak of one layer while it runs, per padded token; earlier layers' activations are freed in inference mode."""

    @classmethod
    def from_figures(
        cls, *, parameters: float, hidden: int, intermediate: int, bytes_per_number: int = HALF_PRECISION_BYTES
    ) -> "EncoderCost":
        """From the model's figures.

        At its widest a layer holds, per token, its input, the residual and the attention output (3 × hidden) with
        either query, key and value (3 × hidden) or the feed-forward's two sides (2 × intermediate, before and after
        the activation). Attention scores are never stored whole by SDPA and FlashAttention.
        """
        widest = 3 * hidden + max(3 * hidden, 2 * intermediate)
        return cls(int(parameters * bytes_per_number), widest * bytes_per_number)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], weights_bytes: int, bytes_per_number: int) -> "EncoderCost":
        """From a model's `config.json`; DistilBERT's names for the two figures are known too.

        Raises:
            KeyError, TypeError, ValueError: it lacks a figure.
        """
        hidden = int(config["hidden_size"] if "hidden_size" in config else config["dim"])
        intermediate = int(config["intermediate_size"] if "intermediate_size" in config else config["hidden_dim"])
        shape = cls.from_figures(
            parameters=0, hidden=hidden, intermediate=intermediate, bytes_per_number=bytes_per_number
        )
        return replace(shape, weights_bytes=weights_bytes)

    def in_full_precision(self) -> "EncoderCost":
        """The same model in FP32, if this is its cost in FP16."""
        return EncoderCost(self.weights_bytes * 2, self.activation_bytes_per_token * 2)


QWEN_7B = DecoderCost.from_figures(parameters=7.615616512e9, layers=28, kv_heads=4, head_size=128)
"""Qwen2.5-7B-Instruct in FP16: 14.2 GiB of weights, 57,344 bytes of KV cache a token."""
QWEN_7B_AWQ = DecoderCost(int(5.2 * GIB), QWEN_7B.kv_bytes_per_token)
"""Qwen2.5-7B-Instruct-AWQ: INT4 weights, 5.2 GiB once loaded; the KV cache stays FP16."""
QWEN_0_5B = DecoderCost.from_figures(parameters=494.032768e6, layers=24, kv_heads=2, head_size=64)
"""Qwen2.5-0.5B-Instruct in FP16: 0.92 GiB of weights, 12,288 bytes of KV cache a token."""
BERT_BASE = EncoderCost.from_figures(parameters=110.6e6, hidden=768, intermediate=3072)
"""klue/bert-base, which both Korean encoders are, in FP16: 0.21 GiB of weights, 16.5 KiB a token."""
