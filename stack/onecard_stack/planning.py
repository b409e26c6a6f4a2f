"""The memory plan, for a person or for a program."""

import json
from typing import Any

from rich.console import Console
from rich.table import Table

from onecard.gpu.costs import GIB, QWEN_7B, QWEN_7B_AWQ
from onecard.gpu.plan import MemoryPlan, PlanRequest, Share, make_plan

CONVERSATIONS = (4096, 300)
"""Lengths, in tokens, of the conversations that are counted: the longest by default, and a usual one."""


def plan_for(card_gb: float, context_tokens: int, *, int4: bool) -> MemoryPlan:
    """The plan for Qwen2.5-7B-Instruct, in FP16 or with INT4 weights, and both Korean encoders.

    Raises:
        DoesNotFit: the card is too small; the message names the nearest settings that fit.
    """
    return make_plan(PlanRequest(card_gb, context_tokens, QWEN_7B_AWQ if int4 else QWEN_7B))


def _shares(plan: MemoryPlan) -> dict[str, Share]:
    return {"llm": plan.llm, "sentiment": plan.sentiment, "embedding": plan.embedding}


def as_json(plan: MemoryPlan) -> str:
    """All figures; sizes in bytes."""
    document: dict[str, Any] = {
        "card_gb": plan.request.card_gb,
        "card_bytes": plan.card_bytes,
        "context_tokens": plan.request.context_tokens,
        "shares": {
            name: {"fraction": share.fraction, "bytes": share.size_bytes, "weights_bytes": share.weights_bytes}
            for name, share in _shares(plan).items()
        },
        "free_bytes": plan.free_bytes,
        "kv_tokens": {"least": plan.kv_tokens[0], "most": plan.kv_tokens[1]},
        "conversations": {str(tokens): plan.conversations(tokens) for tokens in CONVERSATIONS},
        "batch": {"texts": plan.batch_texts, "tokens": plan.batch_tokens},
    }
    return json.dumps(document, indent=2)


def show(plan: MemoryPlan, console: Console) -> None:
    """The same as a table."""
    table = Table(box=None, pad_edge=False)
    for heading in ("part", "share", "GiB", "weights", "the rest of it"):
        table.add_column(heading, justify="left" if heading in ("part", "the rest of it") else "right")
    least, most = plan.kv_tokens
    uses = {"llm": f"KV cache for {least:,} to {most:,} tokens, CUDA graphs"}
    for name, share in _shares(plan).items():
        use = uses.get(name, f"batches of up to {plan.batch_texts} texts, {plan.batch_tokens:,} padded tokens")
        gib, weights = f"{share.size_bytes / GIB:.2f}", f"{share.weights_bytes / GIB:.2f}"
        table.add_row(name, f"{share.fraction:.2f}", gib, weights, use)
    free = plan.free_bytes
    table.add_row(
        "(nobody)", f"{free / plan.card_bytes:.2f}", f"{free / GIB:.2f}", "", "driver, 3 CUDA contexts, margin"
    )
    console.print(f"{plan.request.card_gb:g} GB card: {plan.card_bytes / GIB:.2f} GiB usable", highlight=False)
    console.print(table)
    counts = " or ".join(
        f"{plan.conversations(tokens):,} conversations of {tokens:,} tokens" for tokens in CONVERSATIONS
    )
    console.print(f"At once: {counts}.", highlight=False)
