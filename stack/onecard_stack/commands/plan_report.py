"""The memory plan as a table or as JSON."""

import json
import os
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from onecard.gpu import nvml
from onecard.gpu.costs import GIB
from onecard.gpu.plan import CONTEXT_GIB, DRIVER_GIB, MemoryPlan, MemoryShare
from onecard.gpu.plan_settings import plan_from_settings
from onecard.hardware import has_nvidia_gpu
from onecard.models.folders import ModelKind
from onecard.settings import GPU_MODEL
from onecard_stack.settings import StackSettings

DEFAULT_GPU_GB = 24.0
"""Advertised size of the GPU to plan for if this machine has none and none is given."""
CONVERSATION_TOKENS = (4096, 300)
"""Lengths of conversations, in tokens, for which concurrency is shown: the default maximum, and a usual one."""


@dataclass(frozen=True)
class PlanReport:
    """A plan and the models that it is for."""

    plan: MemoryPlan
    models: dict[ModelKind, str]


def plan_for(
    settings: StackSettings, *, gpu_gb: float | None = None, context_tokens: int | None = None, int4: bool = False
) -> PlanReport:
    """Compute the plan that the services would follow with these settings and changes.

    It is for the real models, never for stand-ins, and for the default GPU model unless the settings name another LLM.

    Args:
        settings: the stack's settings.
        gpu_gb: advertised size of the GPU in GB; None: `GPU_CARD_GB`, else this machine's GPU, else 24.
        context_tokens: longest conversation in tokens; None: `MAX_MODEL_LEN`.
        int4: plan for the LLM with INT4 weights.

    Returns:
        The plan, and the name of each model.

    Raises:
        PlanDoesNotFit: the GPU is too small; the message names the nearest settings that fit.
        UnknownModelSize: a model is not on this machine, and its size is not known.
    """
    changes: dict[str, Any] = {}
    local_bytes = None
    if gpu_gb or not settings.gpu_card_gb:
        local_bytes = None if gpu_gb or not has_nvidia_gpu() else _local_gpu_bytes(settings)
        changes["gpu_card_gb"] = gpu_gb or (None if local_bytes else DEFAULT_GPU_GB)
    if context_tokens:
        changes["max_model_len"] = context_tokens
    if int4:
        changes["llm_model"] = f"{GPU_MODEL}-AWQ"
    elif "llm_model" not in settings.model_fields_set:
        changes["llm_model"] = GPU_MODEL
    chosen = settings.model_copy(update=changes)
    return PlanReport(plan_from_settings(chosen, local_bytes, stand_ins=False), chosen.models)


def _local_gpu_bytes(settings: StackSettings) -> int | None:
    return nvml.gpu_total_bytes(nvml.visible_gpu(settings.gpu_device, os.environ))


def _shares(plan: MemoryPlan) -> dict[str, MemoryShare]:
    return {"llm": plan.llm, "sentiment": plan.sentiment, "embedding": plan.embedding}


def as_json(report: PlanReport) -> str:
    """Render all figures as JSON, sizes in bytes."""
    plan = report.plan
    document: dict[str, Any] = {
        "card_gb": plan.request.gpu_gb,
        "card_bytes": plan.gpu_bytes,
        "context_tokens": plan.request.context_tokens,
        "models": report.models,
        "shares": {
            name: {"fraction": share.fraction, "bytes": share.size_bytes, "weights_bytes": share.weights_bytes}
            for name, share in _shares(plan).items()
        },
        "free_bytes": plan.free_bytes,
        "margin_bytes": plan.margin_bytes,
        "activation_bytes": plan.activation_bytes,
        "graph_bytes": {"least": plan.graph_bytes[0], "most": plan.graph_bytes[1]},
        "kv_tokens": {"least": plan.kv_tokens[0], "most": plan.kv_tokens[1]},
        "conversations": {str(tokens): plan.concurrent_conversations(tokens) for tokens in CONVERSATION_TOKENS},
        "batch": {"texts": plan.batch_texts, "tokens": plan.batch_tokens},
    }
    return json.dumps(document, indent=2)


def print_plan(report: PlanReport, console: Console) -> None:
    """Print the plan as a table, sizes in GiB."""
    plan = report.plan
    table = Table(box=None, pad_edge=False)
    for heading in ("part", "share", "GiB", "weights", "the rest of it"):
        table.add_column(heading, justify="left" if heading in ("part", "the rest of it") else "right")
    least, most = plan.kv_tokens
    graphs = " to ".join(f"{size / GIB:.2f}" for size in plan.graph_bytes)
    activations = f"{plan.activation_bytes / GIB:.2f}"
    uses = {"llm": f"KV cache for {least:,} to {most:,} tokens, activations {activations}, CUDA graphs {graphs}"}
    for name, share in _shares(plan).items():
        use = uses.get(name, f"batches of up to {plan.batch_texts} texts, {plan.batch_tokens:,} padded tokens")
        gib, weights = f"{share.size_bytes / GIB:.2f}", f"{share.weights_bytes / GIB:.2f}"
        table.add_row(name, f"{share.fraction:.2f}", gib, weights, use)
    free = plan.free_bytes
    outside = f"driver {DRIVER_GIB:.2f}, 3 CUDA contexts {3 * CONTEXT_GIB:.2f}, margin {plan.margin_bytes / GIB:.2f}"
    table.add_row("(nobody)", f"{free / plan.gpu_bytes:.2f}", f"{free / GIB:.2f}", "", outside)
    usable = f"{plan.gpu_bytes / GIB:.2f} GiB usable (all figures are calculated, none was measured)"
    console.print(f"{plan.request.gpu_gb:g} GB card: {usable}", highlight=False)
    console.print(table)
    counts = " or ".join(
        f"{plan.concurrent_conversations(tokens):,} conversations of {tokens:,} tokens"
        for tokens in CONVERSATION_TOKENS
    )
    console.print(f"At once: {counts}. Longest: {plan.request.context_tokens:,} tokens.", highlight=False)
    console.print(f"For {', '.join(report.models.values())}.", highlight=False)
