"""The memory plan: each model's share of the GPU. A pure function of the GPU, the models and the settings.

`onecard.gpu.plan_settings` calculates it from the settings: for `onecard plan`, which shows it, and for the services,
each of which takes its own share.
"""

import math
from dataclasses import dataclass, replace

from onecard.gpu.costs import BERT_BASE, GIB, QWEN_7B, QWEN_7B_AWQ, DecoderCost, EncoderCost
from onecard.gpu.engine_memory import EngineLimits, activation_bytes, graph_bytes, kv_bytes

USABLE_GIB: dict[float, float] = {12: 11.76, 16: 15.70, 24: 23.56, 40: 39.39, 48: 47.54, 80: 79.15}
"""Total memory that CUDA reports, in GiB, by the size on the GPU's box in GB (RTX 3060, 4080, 3090; A100; A6000; A100
80GB). Other sizes count with `USABLE_SHARE`."""
USABLE_SHARE = 0.98
SIZE_TOLERANCE = 0.08
"""GPUs of the same nominal size differ by up to this share in what CUDA reports: error correction takes some memory (an
A10G or an L40S shows 6% less than a 3090 or an A6000)."""
DRIVER_GIB = 0.63
"""In use before any process starts: a 3090 shows 22.93 of 23.56 GiB free."""
CONTEXT_GIB = 0.40
"""CUDA context of a process. Neither torch's cap nor vLLM's share includes it."""
MARGIN_GIB = 0.50
"""Kept free for fragmentation and for what this plan does not model."""
LIBRARY_GIB = 0.10
"""Workspaces of cuBLAS and cuDNN in a torch process, inside its cap."""
ENCODER_RESERVE = 1.15
"""Factor on an encoder's need, for the allocator's blocks and for the mask of a batch: 3 bytes × row width for each
token, 9 % of the activations at a width of 512."""
ENCODER_WINDOW = 512
"""Length of the texts, in tokens, for which an encoder's largest batch is planned."""


class PlanDoesNotFit(ValueError):
    """The requested plan is larger than the GPU. The message names the nearest settings that fit."""


@dataclass(frozen=True)
class PlanRequest:
    """Input of the plan."""

    gpu_gb: float
    """Nominal size of the GPU, as on its box, in GB."""
    context_tokens: int = 4096
    """Longest conversation that must fit (vLLM's `--max-model-len`)."""
    llm: DecoderCost = QWEN_7B
    sentiment: EncoderCost = BERT_BASE
    embedding: EncoderCost = BERT_BASE
    usable_bytes: int | None = None
    """Total memory that CUDA reports; None takes it from `USABLE_GIB`."""


@dataclass(frozen=True)
class MemoryShare:
    """One process's share."""

    fraction: float
    """Of the GPU's total memory, as vLLM's `gpu_memory_utilization` or torch's per-process fraction."""
    size_bytes: int
    weights_bytes: int


@dataclass(frozen=True)
class MemoryPlan:
    """Shares that fit on the GPU together."""

    request: PlanRequest
    gpu_bytes: int
    llm: MemoryShare
    sentiment: MemoryShare
    embedding: MemoryShare
    batch_texts: int
    """Most texts in a batch of an encoder."""
    batch_tokens: int
    """Most padded tokens in a batch of an encoder."""
    kv_tokens: tuple[int, int]
    """Least and most tokens of KV cache, depending on what CUDA graphs take."""

    @property
    def activation_bytes(self) -> int:
        """Part of the LLM's share: vLLM's largest step, sampling included."""
        return activation_bytes(self.request.llm.shape, EngineLimits.for_gpu(self.request.gpu_gb))

    @property
    def graph_bytes(self) -> tuple[int, int]:
        """Part of the LLM's share: least and most for CUDA graphs."""
        return graph_bytes(self.request.llm.shape, EngineLimits.for_gpu(self.request.gpu_gb))

    @property
    def free_bytes(self) -> int:
        """Outside all shares: the driver, three CUDA contexts and the margin."""
        return self.gpu_bytes - sum(share.size_bytes for share in (self.llm, self.sentiment, self.embedding))

    @property
    def margin_bytes(self) -> int:
        """Kept free: `MARGIN_GIB`, or more because shares are rounded."""
        return self.free_bytes - int((DRIVER_GIB + 3 * CONTEXT_GIB) * GIB)

    def concurrent_conversations(self, tokens: int) -> int:
        """How many conversations surely fit into the KV cache together.

        Args:
            tokens: of each conversation.

        Returns:
            Their number, for the least KV cache of the plan.
        """
        return self.kv_tokens[0] // tokens


def batch_texts(gpu_gb: float) -> int:
    """Most texts in one batch, by the table in the project's strategy.

    Args:
        gpu_gb: nominal size.

    Returns:
        128 from 40 GB on, 64 from 24 GB on, 32 below.
    """
    if gpu_gb >= 40:
        return 128
    return 64 if gpu_gb >= 24 else 32


def usable_bytes(gpu_gb: float) -> int:
    """Total memory that CUDA will report.

    Args:
        gpu_gb: nominal size.

    Returns:
        Bytes.
    """
    return int(USABLE_GIB.get(gpu_gb, gpu_gb * USABLE_SHARE) * GIB)


def nominal_gb(gpu_bytes: int) -> float:
    """Nominal size of a GPU.

    Args:
        gpu_bytes: total memory that CUDA reports.

    Returns:
        The usual size within `SIZE_TOLERANCE`, in GB; if there is none, the size by `USABLE_SHARE`.
    """
    gib = gpu_bytes / GIB
    nearest = min(USABLE_GIB, key=lambda size: abs(USABLE_GIB[size] - gib))
    is_near = abs(USABLE_GIB[nearest] - gib) <= SIZE_TOLERANCE * USABLE_GIB[nearest]
    return nearest if is_near else round(gib / USABLE_SHARE, 1)


def make_plan(request: PlanRequest) -> MemoryPlan:
    """Calculate the plan.

    The encoders get what their largest batch needs, rounded up to a percent of the GPU; the LLM gets the rest, rounded
    down. Both encoders get the larger of their two shares, so that their models can be swapped.

    Args:
        request: GPU, models and context.

    Returns:
        The shares.

    Raises:
        PlanDoesNotFit: the LLM's weights and one conversation of `context_tokens` do not fit into the rest.
    """
    plan = _allocate(request)
    if plan is None:
        raise PlanDoesNotFit(_explain_refusal(request))
    return plan


def _allocate(request: PlanRequest) -> MemoryPlan | None:
    gpu_bytes = request.usable_bytes or usable_bytes(request.gpu_gb)
    texts = batch_texts(request.gpu_gb)
    tokens = texts * ENCODER_WINDOW
    needs = [_encoder_bytes(encoder, tokens) for encoder in (request.sentiment, request.embedding)]
    encoder = math.ceil(max(needs) / gpu_bytes * 100) / 100
    outside = (DRIVER_GIB + 3 * CONTEXT_GIB + MARGIN_GIB) * GIB
    llm = math.floor((1 - 2 * encoder - outside / gpu_bytes) * 100) / 100
    limits = EngineLimits.for_gpu(request.gpu_gb)
    left = kv_bytes(gpu_bytes * llm, request.llm.weights_bytes, request.llm.shape, limits)
    kv = tuple(size // request.llm.kv_bytes_per_token for size in left)
    if kv[0] < request.context_tokens:
        return None
    return MemoryPlan(
        request=request,
        gpu_bytes=gpu_bytes,
        llm=MemoryShare(llm, int(gpu_bytes * llm), request.llm.weights_bytes),
        sentiment=MemoryShare(encoder, int(gpu_bytes * encoder), request.sentiment.weights_bytes),
        embedding=MemoryShare(encoder, int(gpu_bytes * encoder), request.embedding.weights_bytes),
        batch_texts=texts,
        batch_tokens=tokens,
        kv_tokens=(kv[0], kv[1]),
    )


def _encoder_bytes(encoder: EncoderCost, tokens: int) -> float:
    activations = encoder.activation_bytes_per_token * tokens
    return (encoder.weights_bytes + activations + LIBRARY_GIB * GIB) * ENCODER_RESERVE


def _explain_refusal(request: PlanRequest) -> str:
    """The reason, and the nearest settings that fit: first a smaller context, then INT4 weights, then a larger GPU."""
    refusal = f"{request.gpu_gb:g} GB do not hold this plan with a context of {request.context_tokens:,} tokens."
    for context in (8192, 4096, 2048, 1024):
        if context < request.context_tokens and _allocate(replace(request, context_tokens=context)):
            return f"{refusal} It fits with MAX_MODEL_LEN={context}."
    lighter = QWEN_7B_AWQ.weights_bytes < request.llm.weights_bytes
    if lighter and _allocate(replace(request, llm=QWEN_7B_AWQ)):
        return f"{refusal} It fits with INT4 weights: LLM_MODEL=Qwen/Qwen2.5-7B-Instruct-AWQ."
    for size in sorted(USABLE_GIB):
        if size > request.gpu_gb and _allocate(replace(request, gpu_gb=size, usable_bytes=None)):
            return f"{refusal} The smallest card that holds it has {size} GB."
    return f"{refusal} No card of up to {max(USABLE_GIB)} GB holds it: use a smaller model or context."
