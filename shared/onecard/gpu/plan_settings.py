"""From the settings to the memory plan: the one place where they meet, the same for every process."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from onecard.gpu.costs import (
    BERT_BASE,
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
"""In FP16, for a plan before the model is fetched."""
_FIELDS = ModelSettings.model_fields
KNOWN_ENCODERS: Mapping[str, EncoderCost] = dict.fromkeys(
    (_FIELDS["sentiment_model"].default, _FIELDS["embedding_model"].default), BERT_BASE
)
"""In FP16, likewise."""


class UnknownModelSize(ValueError):
    """A model's size cannot be told: it is not there, and not one of the known ones. The message says what to type."""


@dataclass(frozen=True)
class GpuShare:
    """A process's part of the card that it really has."""

    fraction: float
    """Of that card's memory; less than the plan's own where `GPU_CARD_GB` plans for a smaller one."""
    size_bytes: int


def plan_from_settings(settings: ModelSettings, card_bytes: int | None = None, *, stand_ins: bool = True) -> MemoryPlan:
    """The plan for the models that the settings name, on the card or, if `GPU_CARD_GB` is set, on one of that size.

    Args:
        card_bytes: what CUDA reports as the card's total memory; None where only `GPU_CARD_GB` is known.
        stand_ins: a model that is not there is planned for as its stand-in, which would be loaded in its place.

    Raises:
        DoesNotFit: the card is too small; the message names the nearest settings that fit.
        UnknownModel: a model's size cannot be told.
        ValueError: neither `gpu_bytes` nor `GPU_CARD_GB` is given.
    """
    card_gb, usable = planned_gpu(settings.gpu_card_gb, card_bytes)
    llm = llm_cost(settings, stand_ins=stand_ins)
    request = PlanRequest(
        gpu_gb=card_gb,
        context_tokens=min(settings.max_model_len, llm.window_tokens or settings.max_model_len),
        llm=llm,
        sentiment=encoder_cost("sentiment", settings.sentiment_model, settings, stand_ins=stand_ins),
        embedding=encoder_cost("embedding", settings.embedding_model, settings, stand_ins=stand_ins),
        usable_bytes=usable,
    )
    try:
        return make_plan(request)
    except PlanDoesNotFit:
        if not settings.use_fp16 and _fits(settings.model_copy(update={"use_fp16": True}), card_bytes, stand_ins):
            raise PlanDoesNotFit(f"{card_gb:g} GB do not hold this plan in FP32. It fits with USE_FP16=true.") from None
        raise


def _fits(settings: ModelSettings, card_bytes: int | None, stand_ins: bool) -> bool:
    try:
        plan_from_settings(settings, card_bytes, stand_ins=stand_ins)
    except PlanDoesNotFit:
        return False
    return True


def planned_gpu(card_gb: float | None, card_bytes: int | None) -> tuple[float, int]:
    """The card to plan for: its size on the box in GB, and what CUDA would report of it in bytes.

    Args:
        card_gb: `GPU_CARD_GB`.
        card_bytes: what CUDA reports of the card that is there, if that could be asked.

    Raises:
        DoesNotFit: `GPU_CARD_GB` is larger than the card.
        ValueError: both are None.
    """
    if card_gb is None:
        if card_bytes is None:
            raise ValueError("no card to plan for: neither its memory nor GPU_CARD_GB is known")
        return nominal_gb(card_bytes), card_bytes
    wanted = usable_bytes(card_gb)
    if card_bytes is None or wanted <= card_bytes:
        return card_gb, wanted
    if card_gb <= nominal_gb(card_bytes):
        return card_gb, card_bytes
    raise PlanDoesNotFit(
        f"GPU_CARD_GB={card_gb:g}, but the card has {nominal_gb(card_bytes):g} GB. Set it lower or unset it."
    )


def gpu_share(size_bytes: int, card_bytes: int) -> GpuShare:
    """The part of a card of `gpu_bytes` that is `size_bytes` large."""
    return GpuShare(size_bytes / card_bytes, size_bytes)


def llm_share(plan: MemoryPlan, card_bytes: int | None, wanted: float | None) -> GpuShare:
    """The language model's part of the card.

    Args:
        card_bytes: what CUDA reports of the card that is there; None if it cannot be asked: it is then the planned one.
        wanted: `LLM_GPU_SHARE`, of the planned card; None takes the plan's.
    """
    size = plan.llm.size_bytes if wanted is None else int(plan.gpu_bytes * wanted)
    return gpu_share(size, card_bytes or plan.gpu_bytes)


def llm_cost(settings: ModelSettings, *, stand_ins: bool = True) -> DecoderCost:
    """What `LLM_MODEL` costs: from its files if they are there, else the known figures.

    Raises:
        UnknownModel: neither is to be had.
    """
    folder = folders.find_or_none("llm", settings.llm_model, settings.model_cache_path, stand_ins=stand_ins)
    if folder is not None:
        return _cost_from_files(DecoderCost.from_config, folder, settings)
    cost = _known_cost(KNOWN_LLMS, "llm", settings.llm_model)
    return cost if settings.use_fp16 else cost.in_full_precision()


def encoder_cost(kind: ModelKind, model: str, settings: ModelSettings, *, stand_ins: bool = True) -> EncoderCost:
    """What an encoder costs, from the same sources.

    Raises:
        UnknownModel: neither is to be had.
    """
    folder = folders.find_or_none(kind, model, settings.model_cache_path, stand_ins=stand_ins)
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
