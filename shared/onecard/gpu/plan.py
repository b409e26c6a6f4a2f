"""The memory plan: who gets which part of the card. A pure function of the card, the models and the settings.

`onecard.gpu.plan_settings` makes it from the settings: for `onecard plan`, which shows it, and for the services,
each of which takes its own line.
"""

import math
from dataclasses import dataclass, replace

from onecard.gpu.costs import BERT_BASE, GIB, QWEN_7B, QWEN_7B_AWQ, DecoderCost, EncoderCost

USABLE_GIB: dict[float, float] = {12: 11.76, 16: 15.70, 24: 23.56, 40: 39.39, 48: 47.54, 80: 79.15}
"""What CUDA reports as a card's total memory, in GiB, by the size on its box (RTX 3060, 4080, 3090; A100; A6000;
A100 80GB). Other sizes are taken at `USABLE_SHARE`."""
USABLE_SHARE = 0.98
SIZE_TOLERANCE = 0.08
"""Cards of one size on the box differ by up to this part in what CUDA reports: error correction takes some
(an A10G or an L40S shows 6% less than a 3090 or an A6000)."""
DRIVER_GIB = 0.63
"""Taken before any process starts: a 3090 shows 22.93 of 23.56 GiB free."""
CONTEXT_GIB = 0.40
"""A process's CUDA context. Neither torch's cap nor vLLM's share counts it."""
MARGIN_GIB = 0.50
"""Left to nobody, for fragmentation and for what is not modelled."""
ENGINE_GIB = (1.0, 1.8)
"""What vLLM takes beside weights and KV cache, least and most: activations at its largest step, CUDA graphs."""
LIBRARY_GIB = 0.10
"""cuBLAS's and cuDNN's workspaces in a torch process, inside its cap."""
ENCODER_RESERVE = 1.15
"""Room for the allocator's blocks over what an encoder needs, and for the mask of a batch's rows: 3 bytes × the rows'
width a token, 9 % of the activations at a width of 512."""
ENCODER_WINDOW = 512
"""Longest text that an encoder's largest batch is planned for, in tokens."""


class PlanDoesNotFit(ValueError):
    """The plan asked for is larger than the card. The message names the nearest settings that fit."""


@dataclass(frozen=True)
class PlanRequest:
    """What the plan is for."""

    gpu_gb: float
    """Size on the card's box, in GB."""
    context_tokens: int = 4096
    """Longest conversation that must fit (vLLM's `--max-model-len`)."""
    llm: DecoderCost = QWEN_7B
    sentiment: EncoderCost = BERT_BASE
    embedding: EncoderCost = BERT_BASE
    usable_bytes: int | None = None
    """The card's total memory as CUDA reports it, where it can be asked; else from `USABLE_GIB`."""


@dataclass(frozen=True)
class MemoryShare:
    """One process's line of the plan."""

    fraction: float
    """Of the card's total memory: vLLM's `gpu_memory_utilization`, or torch's per-process fraction."""
    size_bytes: int
    weights_bytes: int


@dataclass(frozen=True)
class MemoryPlan:
    """Shares that fit the card together."""

    request: PlanRequest
    gpu_bytes: int
    llm: MemoryShare
    sentiment: MemoryShare
    embedding: MemoryShare
    batch_texts: int
    """Most texts in an encoder's batch."""
    batch_tokens: int
    """Most padded tokens in an encoder's batch."""
    kv_tokens: tuple[int, int]
    """Tokens of KV cache, least and most, by what vLLM's own needs turn out to be."""

    @property
    def free_bytes(self) -> int:
        """Outside every share: the driver, three CUDA contexts and the margin."""
        return self.gpu_bytes - sum(share.size_bytes for share in (self.llm, self.sentiment, self.embedding))

    @property
    def margin_bytes(self) -> int:
        """Left to nobody; `MARGIN_GIB` or, by the rounding of the shares, more."""
        return self.free_bytes - int((DRIVER_GIB + 3 * CONTEXT_GIB) * GIB)

    def concurrent_conversations(self, tokens: int) -> int:
        """How many conversations of `tokens` are sure to fit in the KV cache at once."""
        return self.kv_tokens[0] // tokens


def batch_texts(card_gb: float) -> int:
    """Most texts in one batch, by the card's size: the table that the project's strategy gives."""
    if card_gb >= 40:
        return 128
    return 64 if card_gb >= 24 else 32


def usable_bytes(card_gb: float) -> int:
    """What CUDA will report as the total memory of a card of this size."""
    return int(USABLE_GIB.get(card_gb, card_gb * USABLE_SHARE) * GIB)


def nominal_gb(card_bytes: int) -> float:
    """Size on the box, in GB, of a card of which CUDA reports `gpu_bytes`: the usual size near it, else by
    `USABLE_SHARE`."""
    gib = card_bytes / GIB
    nearest = min(USABLE_GIB, key=lambda size: abs(USABLE_GIB[size] - gib))
    near = abs(USABLE_GIB[nearest] - gib) <= SIZE_TOLERANCE * USABLE_GIB[nearest]
    return nearest if near else round(gib / USABLE_SHARE, 1)


def make_plan(request: PlanRequest) -> MemoryPlan:
    """The plan.

    The encoders get what their largest batch needs, rounded up to a percent; the LLM gets what is left, rounded
    down. Both encoders get the larger of their two shares, so that their models can be exchanged.

    Raises:
        DoesNotFit: the LLM's weights and one conversation of `context_tokens` do not fit in what is left.
    """
    plan = _allocate(request)
    if plan is None:
        raise PlanDoesNotFit(_explain_refusal(request))
    return plan


def _allocate(request: PlanRequest) -> MemoryPlan | None:
    card = request.usable_bytes or usable_bytes(request.gpu_gb)
    texts = batch_texts(request.gpu_gb)
    tokens = texts * ENCODER_WINDOW
    needs = [_encoder_bytes(encoder, tokens) for encoder in (request.sentiment, request.embedding)]
    encoder = math.ceil(max(needs) / card * 100) / 100
    outside = (DRIVER_GIB + 3 * CONTEXT_GIB + MARGIN_GIB) * GIB
    llm = math.floor((1 - 2 * encoder - outside / card) * 100) / 100
    left = card * llm - request.llm.weights_bytes
    kv = tuple(int((left - engine * GIB) // request.llm.kv_bytes_per_token) for engine in reversed(ENGINE_GIB))
    if kv[0] < request.context_tokens:
        return None
    return MemoryPlan(
        request=request,
        gpu_bytes=card,
        llm=MemoryShare(llm, int(card * llm), request.llm.weights_bytes),
        sentiment=MemoryShare(encoder, int(card * encoder), request.sentiment.weights_bytes),
        embedding=MemoryShare(encoder, int(card * encoder), request.embedding.weights_bytes),
        batch_texts=texts,
        batch_tokens=tokens,
        kv_tokens=(kv[0], kv[1]),
    )


def _encoder_bytes(encoder: EncoderCost, tokens: int) -> float:
    activations = encoder.activation_bytes_per_token * tokens
    return (encoder.weights_bytes + activations + LIBRARY_GIB * GIB) * ENCODER_RESERVE


def _explain_refusal(request: PlanRequest) -> str:
    """Why not, and the nearest settings that fit: a smaller context first, then INT4 weights."""
    asked = f"{request.gpu_gb:g} GB do not hold this plan with a context of {request.context_tokens:,} tokens."
    for context in (8192, 4096, 2048, 1024):
        if context < request.context_tokens and _allocate(replace(request, context_tokens=context)):
            return f"{asked} It fits with MAX_MODEL_LEN={context}."
    lighter = QWEN_7B_AWQ.weights_bytes < request.llm.weights_bytes
    if lighter and _allocate(replace(request, llm=QWEN_7B_AWQ)):
        return f"{asked} It fits with INT4 weights: LLM_MODEL=Qwen/Qwen2.5-7B-Instruct-AWQ."
    for size in sorted(USABLE_GIB):
        if size > request.gpu_gb and _allocate(replace(request, gpu_gb=size, usable_bytes=None)):
            return f"{asked} The smallest card that holds it has {size} GB."
    return f"{asked} No card of up to {max(USABLE_GIB)} GB holds it: use a smaller model or context."
