"""What a model costs on the card, from its shape. Pure figures; nothing is loaded."""

from dataclasses import dataclass

GIB = 1024**3


@dataclass(frozen=True)
class DecoderCost:
    """A language model under vLLM."""

    weights_bytes: int
    kv_bytes_per_token: int
    """2 (key and value) × layers × KV heads × head size × 2 bytes (FP16)."""

    @classmethod
    def of(
        cls, *, parameters: float, layers: int, kv_heads: int, head_size: int, bytes_per_weight: float = 2.0
    ) -> "DecoderCost":
        """From the model card's figures."""
        return cls(int(parameters * bytes_per_weight), 2 * layers * kv_heads * head_size * 2)


@dataclass(frozen=True)
class EncoderCost:
    """A BERT-like encoder under torch."""

    weights_bytes: int
    activation_bytes_per_token: int
    """Peak of one layer while it runs, per padded token; earlier layers' activations are freed in inference mode."""

    @classmethod
    def of(cls, *, parameters: float, hidden: int, intermediate: int, bytes_per_number: int = 2) -> "EncoderCost":
        """From the model's configuration.

        At its widest a layer holds, per token, its input, the residual and the attention output (3 × hidden) with
        either query, key and value (3 × hidden) or the feed-forward's two sides (2 × intermediate, before and after
        the activation). Attention scores are never stored whole by SDPA and FlashAttention.
        """
        widest = 3 * hidden + max(3 * hidden, 2 * intermediate)
        return cls(int(parameters * bytes_per_number), widest * bytes_per_number)


QWEN_7B = DecoderCost.of(parameters=7.615616512e9, layers=28, kv_heads=4, head_size=128)
"""Qwen2.5-7B-Instruct in FP16: 14.2 GiB of weights, 57,344 bytes of KV cache a token."""
QWEN_7B_AWQ = DecoderCost(int(5.2 * GIB), QWEN_7B.kv_bytes_per_token)
"""Qwen2.5-7B-Instruct-AWQ: INT4 weights, 5.2 GiB once loaded; the KV cache stays FP16."""
BERT_BASE = EncoderCost.of(parameters=110.6e6, hidden=768, intermediate=3072)
"""klue/bert-base, which both Korean encoders are, in FP16: 0.21 GiB of weights, 16.5 KiB a token."""
