"""Attention over texts that lie end to end in one row, told by their lengths: flash kernels on a GPU. Imports torch.

A mask rules flash kernels out, and SDPA then reads and writes a score for each two tokens of a row. With cumulative
lengths the kernel visits each text's own tokens only, and nothing is padded.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from onecard import logs

if TYPE_CHECKING:  # So that it runs where the settings' packages are not installed, as on a card's bare machine.
    from onecard.gpu.device import Device

IMPLEMENTATION = "onecard_by_lengths"
"""Name among transformers' implementations of attention."""
MIN_CAPABILITY = (8, 0)
"""Of FlashAttention 2, which torch carries."""

log = logs.logger()


def attends_by_lengths(encoder: PreTrainedModel, device: "Device") -> bool:
    """Let an encoder attend by lengths where this card has the kernels, and log once which attention it has.

    Args:
        encoder: loaded on the device, with attention by SDPA.
        device: where it runs, and its number format.

    Returns:
        Whether batches are to be told by their lengths. SDPA with a mask serves if not.
    """
    reason = _missing(encoder, device)
    if reason is None:
        use_lengths(encoder, varlen_attn)
    log.info("attention", kernels="sdpa with a mask" if reason else "flash by lengths", reason=reason)
    return reason is None


def use_lengths(encoder: PreTrainedModel, kernel: Callable[..., Any]) -> None:
    """Let an encoder attend by the lengths that it is called with, and by SDPA where it is called without.

    Args:
        encoder: of the BERT or RoBERTa family.
        kernel: attends within each text; called as `varlen_attn` is, with queries, keys and values of all tokens,
            (T, heads, size).
    """

    def attend(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        cu_seq_lens_q: torch.Tensor | None = None,
        max_length_q: int = 0,
        **others: Any,
    ) -> tuple[torch.Tensor, None]:
        if cu_seq_lens_q is None:
            states, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **others)
            return states, None
        query, key, value = (states.squeeze(0).transpose(0, 1) for states in (query, key, value))
        ends, longest = cu_seq_lens_q, max_length_q
        states = kernel(query, key, value, ends, ends, longest, longest, scale=scaling)
        return states.unsqueeze(0), None

    AttentionInterface.register(IMPLEMENTATION, attend)
    AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
    encoder.set_attn_implementation(IMPLEMENTATION)


def _missing(encoder: PreTrainedModel, device: "Device") -> str | None:
    """Why this encoder cannot attend by lengths here; None if it can."""
    capability = device.compute_capability
    if capability is None:
        return "it runs on a CPU"
    if capability < MIN_CAPABILITY:
        return "FlashAttention 2 needs a card of compute capability 8.0"
    if device.precision == "float32":
        return "flash kernels compute in half precision"
    heads = encoder.config.num_attention_heads
    text = torch.zeros(8, heads, encoder.config.hidden_size // heads, dtype=device.dtype, device=device.name)
    ends = torch.tensor([0, 3, 8], dtype=torch.int32, device=device.name)
    try:
        varlen_attn(text, text, text, ends, ends, 5, 5)
    except RuntimeError as error:  # Also where this build of torch has no such kernel.
        return f"torch's kernel does not run: {str(error).strip().splitlines()[0]}"
    return None
