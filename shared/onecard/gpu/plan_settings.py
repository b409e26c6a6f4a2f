"""The memory plan for the settings. Every process calculates it here, in the same way."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from onecard.gpu.costs import (
    BERT_BASE,
    GIB,
    HALF_PRECISION_BYTES,
    QWEN_0_5B,
    QWEN_7B,
    QWEN_7B_AWQ,
    DecoderCost,
    EncoderCost,
    loaded_bytes,
)
from onecard.gpu.plan import MemoryPlan, PlanDoesNotFit, PlanRequest, make_plan, nominal_gb, usable_bytes
from onecard.models import folders
from onecard.models.folders import ModelFolder, ModelKind
from onecard.models.model_files import stored_tensors
from onecard.settings import CPU_MODEL, GPU_MODEL, ModelSettings

Cost = TypeVar("Cost", DecoderCost, EncoderCost)

KNOWN_LLMS: Mapping[str, DecoderCost] = {GPU_MODEL: QWEN_7B, f"{GPU_MODEL}-AWQ": QWEN_7B_AWQ, CPU_MODEL: QWEN_0_5B}
"""Costs in FP16, for a plan before the model is downloaded."""
ONE_BYTE_METHODS = frozenset({"fp8", "fp8_per_tensor", "int8", "int8_per_channel_weight_only"})
"""Values of `LLM_QUANTIZATION` that quantise weights while they are loaded, to 8 bits each."""
_FIELDS = ModelSettings.model_fields
KNOWN_ENCODERS: Mapping[str, EncoderCost] = dict.fromkeys(
    (_FIELDS["sentiment_model"].default, _FIELDS["embedding_model"].default), BERT_BASE
)
"""Costs in FP16, for the same purpose."""


class UnknownModelSize(ValueError):
    """A model's size is unknown: it is not downloaded, and not a known one. The message says what to run."""


@dataclass(frozen=True)
class GpuShare:
    """A process's share of the GPU that is really there."""

    fraction: float
    """Of that GPU's memory; less than in the plan if `GPU_CARD_GB` plans for a smaller one."""
    size_bytes: int


def plan_from_settings(settings: ModelSettings, gpu_bytes: int | None = None, *, stand_ins: bool = True) -> MemoryPlan:
    """Calculate the plan for the models in the settings, on this GPU or on one of `GPU_CARD_GB`.

    Args:
        settings: models, precision and context.
        gpu_bytes: total memory that CUDA reports; None if only `GPU_CARD_GB` is known.
        stand_ins: plan for the stand-in of a model that is not downloaded, because it would be loaded instead.

    Returns:
        The plan.

    Raises:
        PlanDoesNotFit: the GPU is too small; the message names the nearest settings that fit.
        UnknownModelSize: a model's size is unknown.
        ValueError: neither `gpu_bytes` nor `GPU_CARD_GB` is given.
    """
    gpu_gb, usable = planned_gpu(settings.gpu_card_gb, gpu_bytes)
    llm = llm_cost(settings, stand_ins=stand_ins)
    request = PlanRequest(
        gpu_gb=gpu_gb,
        context_tokens=min(settings.max_model_len, llm.window_tokens or settings.max_model_len),
        llm=llm,
        sentiment=encoder_cost("sentiment", settings.sentiment_model, settings, stand_ins=stand_ins),
        embedding=encoder_cost("embedding", settings.embedding_model, settings, stand_ins=stand_ins),
        usable_bytes=usable,
    )
    try:
        return make_plan(request)
    except PlanDoesNotFit:
        if not settings.use_fp16 and _fits(settings.model_copy(update={"use_fp16": True}), gpu_bytes, stand_ins):
            raise PlanDoesNotFit(f"{gpu_gb:g} GB do not hold this plan in FP32. It fits with USE_FP16=true.") from None
        raise


def _fits(settings: ModelSettings, gpu_bytes: int | None, stand_ins: bool) -> bool:
    try:
        plan_from_settings(settings, gpu_bytes, stand_ins=stand_ins)
    except PlanDoesNotFit:
        return False
    return True


def planned_gpu(gpu_gb: float | None, gpu_bytes: int | None) -> tuple[float, int]:
    """The GPU to plan for.

    Args:
        gpu_gb: `GPU_CARD_GB`; None for the GPU that is there.
        gpu_bytes: total memory that CUDA reports for it; None if unknown.

    Returns:
        Its nominal size in GB, and the total memory that CUDA would report for it in bytes.

    Raises:
        PlanDoesNotFit: `GPU_CARD_GB` is larger than the GPU.
        ValueError: both arguments are None.
    """
    if gpu_gb is None:
        if gpu_bytes is None:
            raise ValueError("no card to plan for: neither its memory nor GPU_CARD_GB is known")
        return nominal_gb(gpu_bytes), gpu_bytes
    wanted = usable_bytes(gpu_gb)
    if gpu_bytes is None or wanted <= gpu_bytes:
        return gpu_gb, wanted
    if gpu_gb <= nominal_gb(gpu_bytes):
        return gpu_gb, gpu_bytes
    raise PlanDoesNotFit(
        f"GPU_CARD_GB={gpu_gb:g}, but the card has {nominal_gb(gpu_bytes):g} GB. Set it lower or unset it."
    )


def gpu_share(size_bytes: int, gpu_bytes: int) -> GpuShare:
    """A share of the GPU.

    Args:
        size_bytes: of the share.
        gpu_bytes: total memory of the GPU.

    Returns:
        Its fraction and its size.
    """
    return GpuShare(size_bytes / gpu_bytes, size_bytes)


def llm_share(plan: MemoryPlan, gpu_bytes: int | None, requested_fraction: float | None) -> GpuShare:
    """The language model's share of the GPU.

    Args:
        plan: the memory plan.
        gpu_bytes: total memory of the GPU; None if unknown, which takes the planned one's.
        requested_fraction: `LLM_GPU_SHARE`, of the planned GPU; None takes the plan's share.

    Returns:
        The share.
    """
    size = plan.llm.size_bytes if requested_fraction is None else int(plan.gpu_bytes * requested_fraction)
    return gpu_share(size, gpu_bytes or plan.gpu_bytes)


def llm_cost(settings: ModelSettings, *, stand_ins: bool = True) -> DecoderCost:
    """What `LLM_MODEL` costs: calculated from its files, or else from known figures.

    Args:
        settings: model, precision, and where models are.
        stand_ins: take the stand-in of a model that is not downloaded.

    Returns:
        The cost in the precision of the settings.

    Raises:
        UnknownModelSize: the model is neither downloaded nor known, or its files cannot be read.
    """
    folder = folders.find_or_none(
        "llm", settings.llm_model, settings.model_cache_path, stand_ins=stand_ins and settings.allow_stand_ins
    )
    if folder is not None:
        cost = _cost_from_files(DecoderCost.from_config, folder, settings)
    else:
        cost = _known_cost(KNOWN_LLMS, "llm", settings.llm_model)
        cost = cost if settings.use_fp16 else cost.in_full_precision()
    if settings.kv_cache_dtype.startswith("fp8"):
        cost = cost.with_kv_in_one_byte()
    if settings.llm_quantization in ONE_BYTE_METHODS:
        cost = cost.with_weights_in_one_byte()
    return cost.with_offloaded(int(settings.llm_cpu_offload_gb * GIB))


def encoder_cost(kind: ModelKind, model: str, settings: ModelSettings, *, stand_ins: bool = True) -> EncoderCost:
    """What an encoder costs: calculated from its files, or else from known figures.

    Args:
        kind: sentiment or embedding.
        model: hub name or folder.
        settings: precision, and where models are.
        stand_ins: take the stand-in of a model that is not downloaded.

    Returns:
        The cost in the precision of the settings.

    Raises:
        UnknownModelSize: the model is neither downloaded nor known, or its files cannot be read.
    """
    folder = folders.find_or_none(
        kind, model, settings.model_cache_path, stand_ins=stand_ins and settings.allow_stand_ins
    )
    if folder is not None:
        return _cost_from_files(EncoderCost.from_config, folder, settings)
    cost = _known_cost(KNOWN_ENCODERS, kind, model)
    return cost if settings.use_fp16 else cost.in_full_precision()


def _cost_from_files(
    parse: Callable[[Mapping[str, Any], int, int], Cost], folder: ModelFolder, settings: ModelSettings
) -> Cost:
    size = HALF_PRECISION_BYTES if settings.use_fp16 else 2 * HALF_PRECISION_BYTES
    try:
        config = json.loads((folder.path / "config.json").read_bytes())
        return parse(config, loaded_bytes(stored_tensors(folder.path), size), size)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UnknownModelSize(
            f"the size of model {folder.name} cannot be read from its config.json and safetensors files. "
            "Remove its folder, and run 'make models' again."
        ) from None


def _known_cost(costs: Mapping[str, Cost], kind: ModelKind, model: str) -> Cost:
    if model in costs:
        return costs[model]
    raise UnknownModelSize(
        f"the card cannot be shared without knowing the size of {kind.upper()}_MODEL={model}, and it is not in "
        "MODEL_CACHE_PATH. Run 'make models' to fetch it."
    )
