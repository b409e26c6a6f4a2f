"""A torch process takes its part of the card: its line of the plan becomes a cap. torch is imported lazily."""

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
"""Most padded tokens in a batch on the CPU: two texts of the longest window. On two cores more gains no throughput (600
are enough), and a batch is how long an interactive text may have to wait for the one that runs: 0.6 s."""

log = logs.logger()


@dataclass(frozen=True)
class MemoryReservation:
    """What a process may use of its device."""

    model_kind: ModelKind
    planned_bytes: int | None
    """Its share of the card, which its torch allocator is held to; None on the CPU, where nothing is capped."""
    batch_texts: int
    """Most texts in one batch of an encoder."""
    batch_tokens: int
    """Most padded tokens in one batch of an encoder."""


def reserve_memory(
    part: ModelKind,
    settings: ModelSettings,
    device: Device,
    *,
    batch_texts: int | None = None,
    batch_tokens: int | None = None,
) -> MemoryReservation:
    """Cap this process at its share of the card. Call it before the first allocation there.

    Args:
        batch_texts: `BATCH_TEXTS` where it is set; it wins over the plan's.
        batch_tokens: `BATCH_TOKENS`, likewise.

    Raises:
        SystemExit: the plan does not fit the card, or a model's size is not known; the message is one line.
    """
    if not device.name.startswith("cuda"):
        return MemoryReservation(part, None, batch_texts or CPU_BATCH_TEXTS, batch_tokens or CPU_BATCH_TOKENS)
    import torch

    card_bytes: int = torch.cuda.get_device_properties(device.name).total_memory
    try:
        plan = plan_from_settings(settings, card_bytes)
    except (PlanDoesNotFit, UnknownModelSize) as error:
        raise SystemExit(f"memory plan: {error}") from None
    share = gpu_share(_share_bytes(plan, part), card_bytes)
    torch.cuda.set_per_process_memory_fraction(share.fraction, device.name)
    log.info("share of the card", part=part, gib=round(share.size_bytes / GIB, 2), fraction=round(share.fraction, 4))
    return MemoryReservation(
        part,
        share.size_bytes,
        _chosen("BATCH_TEXTS", batch_texts, plan.batch_texts),
        _chosen("BATCH_TOKENS", batch_tokens, plan.batch_tokens),
    )


def _share_bytes(plan: MemoryPlan, part: ModelKind) -> int:
    return {"llm": plan.llm, "sentiment": plan.sentiment, "embedding": plan.embedding}[part].size_bytes


def _chosen(variable: str, wanted: int | None, planned: int) -> int:
    if wanted is not None and wanted > planned:
        log.warning("above the memory plan: a full batch may not fit", variable=variable, value=wanted, planned=planned)
    return wanted or planned
