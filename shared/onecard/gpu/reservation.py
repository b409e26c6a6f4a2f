"""Limits a torch process to its share of the memory plan. torch is imported lazily."""

from dataclasses import dataclass

from onecard import logs
from onecard.gpu.costs import GIB
from onecard.gpu.device import Device
from onecard.gpu.plan import MemoryPlan, PlanDoesNotFit
from onecard.gpu.plan_settings import UnknownModelSize, gpu_share, plan_from_settings
from onecard.models.folders import ModelKind
from onecard.settings import ModelSettings

CPU_BATCH_TEXTS = 32
"""Most texts in a batch on the CPU: the strategy's figure for a machine without a GPU."""
CPU_BATCH_TOKENS = 1024
"""Most padded tokens in a batch on the CPU: two texts of the longest window. On two cores, 600 are enough for full
throughput, and a running batch delays an interactive text by its whole length: 0.6 s."""

log = logs.logger()


@dataclass(frozen=True)
class MemoryReservation:
    """What a process may use of its device."""

    model_kind: ModelKind
    planned_bytes: int | None
    """Its share of the GPU, enforced on torch's allocator; None on the CPU, where there is no cap."""
    batch_texts: int
    """Most texts in one batch of an encoder."""
    batch_tokens: int
    """Most padded tokens in one batch of an encoder."""


def reserve_memory(
    model_kind: ModelKind,
    settings: ModelSettings,
    device: Device,
    *,
    batch_texts: int | None = None,
    batch_tokens: int | None = None,
) -> MemoryReservation:
    """Cap this process at its share of the GPU. Call it before the first allocation there.

    Args:
        model_kind: the process's model.
        settings: for the memory plan.
        device: of the process.
        batch_texts: `BATCH_TEXTS`, which overrides the plan; None takes the plan's.
        batch_tokens: `BATCH_TOKENS`, which overrides the plan; None takes the plan's.

    Returns:
        The share, and the limits of a batch.

    Raises:
        SystemExit: the plan does not fit on the GPU, or a model's size is unknown; the message is one line.
    """
    if not device.name.startswith("cuda"):
        return MemoryReservation(model_kind, None, batch_texts or CPU_BATCH_TEXTS, batch_tokens or CPU_BATCH_TOKENS)
    import torch

    gpu_bytes: int = torch.cuda.get_device_properties(device.name).total_memory
    try:
        plan = plan_from_settings(settings, gpu_bytes)
    except (PlanDoesNotFit, UnknownModelSize) as error:
        raise SystemExit(f"memory plan: {error}") from None
    share = gpu_share(_share_bytes(plan, model_kind), gpu_bytes)
    torch.cuda.set_per_process_memory_fraction(share.fraction, device.name)
    log.info(
        "share of the card", part=model_kind, gib=round(share.size_bytes / GIB, 2), fraction=round(share.fraction, 4)
    )
    return MemoryReservation(
        model_kind,
        share.size_bytes,
        _chosen("BATCH_TEXTS", batch_texts, plan.batch_texts),
        _chosen("BATCH_TOKENS", batch_tokens, plan.batch_tokens),
    )


def _share_bytes(plan: MemoryPlan, model_kind: ModelKind) -> int:
    return {"llm": plan.llm, "sentiment": plan.sentiment, "embedding": plan.embedding}[model_kind].size_bytes


def _chosen(variable: str, requested: int | None, planned: int) -> int:
    if requested is not None and requested > planned:
        log.warning(
            "above the memory plan: a full batch may not fit", variable=variable, value=requested, planned=planned
        )
    return requested or planned
