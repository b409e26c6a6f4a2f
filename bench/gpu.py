"""`python -m bench.gpu`: checks the encoders' part of the memory plan on a real GPU. Without CUDA it only says so.

Uses random weights of the real sizes. Each precision and model runs in a process of its own, with the plan's memory
limit, so that their memory is measured separately.
"""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bench import gpu_worker, machine
from bench.paths import RESULTS, ROOT
from bench.tables import number, table
from onecard.gpu.costs import GIB, EncoderCost
from onecard.gpu.plan import LIBRARY_GIB, MemoryPlan, PlanDoesNotFit, PlanRequest, make_plan

PRECISIONS = {"float32": 4, "float16": 2}
"""Bytes per number."""
PARAMETERS = 110.6e6
HIDDEN, INTERMEDIATE = 768, 3072


@dataclass(frozen=True)
class GpuJob:
    """The measurement of one process."""

    model: str
    """`classifier` or `encoder`."""
    precision: str
    card_bytes: int
    """Size of the GPU to plan for, at most that of the real one."""
    share: float
    """Memory limit of the process, as a fraction of `card_bytes`."""
    batch_tokens: int
    """The plan's largest batch, in padded tokens."""


def cost(precision: str) -> EncoderCost:
    """Compute the plan's costs of BERT-base in this precision."""
    return EncoderCost.from_figures(
        parameters=PARAMETERS, hidden=HIDDEN, intermediate=INTERMEDIATE, bytes_per_number=PRECISIONS[precision]
    )


def plan_for(card_gb: float, precision: str, usable_bytes: int | None) -> MemoryPlan:
    """Make the plan with both encoders in one precision.

    Args:
        card_gb: advertised size of the GPU in GB.
        precision: a key of `PRECISIONS`.
        usable_bytes: usable memory; None: as the plan estimates it from the size.

    Returns:
        The plan.

    Raises:
        PlanDoesNotFit: the GPU is too small.
    """
    encoder = cost(precision)
    return make_plan(PlanRequest(card_gb, sentiment=encoder, embedding=encoder, usable_bytes=usable_bytes))


def planned_bytes(plan: MemoryPlan) -> int:
    """Compute the bytes that the plan expects of one encoder at its largest batch, without reserve and rounding."""
    encoder = plan.request.embedding
    activations = encoder.activation_bytes_per_token * plan.batch_tokens
    return encoder.weights_bytes + activations + int(LIBRARY_GIB * GIB)


def run_job(job: GpuJob) -> dict[str, Any]:
    """Run a measurement in a process of its own.

    Args:
        job: what to measure.

    Returns:
        The job's fields and the figures.

    Raises:
        SystemExit: the process failed; the message has the end of its output.
    """
    command = [sys.executable, "-m", "bench.gpu_worker"]
    made = subprocess.run(command, input=json.dumps(asdict(job)), cwd=ROOT, capture_output=True, text=True)
    if made.returncode:
        raise SystemExit(f"{job.model} in {job.precision} failed:\n{made.stderr[-2000:]}")
    return {**asdict(job), **json.loads(made.stdout)}


def as_markdown(head: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Render the report, with sizes in GiB."""
    memory = [["model, precision", "cap", "planned", "measured peak", "measured/planned", "within the cap"]]
    for row in rows:
        measured, cap = row["peak_reserved_bytes"], row["share"] * row["card_bytes"]
        planned = row["planned_bytes"]
        sizes = [number(size / GIB, 2) for size in (cap, planned, measured)]
        name = f"{row['model']}, {row['precision']}"
        memory.append([name, *sizes, number(measured / planned, 2), "yes" if measured <= cap else "no"])
    budgets = list(dict.fromkeys(budget for row in rows for budget in row["texts_per_second"]))
    speed = [["texts/s by padded tokens a batch", *budgets]]
    speed += [
        [f"{row['model']}, {row['precision']}", *(number(row["texts_per_second"].get(each), 0) for each in budgets)]
        for row in rows
    ]
    parts = [
        "# Encoders on a GPU: the plan beside what happens",
        f"{head['date']} · {head['gpu']}, played as {head['card_gb']:g} GB · torch {head['torch']}",
        "## Memory, GiB",
        table(memory),
        "## Throughput, texts of {} to {} tokens".format(*gpu_worker.REVIEW_TOKENS),
        table(speed),
        "## Out of memory",
        *(_back_off_line(row) for row in rows),
    ]
    return "\n\n".join(parts) + "\n"


def _back_off_line(row: dict[str, Any]) -> str:
    back_off = row["back_off"]
    first, last = back_off["budget_tokens"]
    return (
        f"- {row['model']}, {row['precision']}: {back_off['answered']} texts answered; {back_off['out_of_memory']} "
        f"batches ran out of memory, and the budget went from {first:,} to {last:,} tokens."
    )


def main(
    card_gb: Annotated[float, typer.Option(min=1, help="Behave as if the card were this size.")] = 24.0,
    out: Annotated[Path, typer.Option(help="Folder for gpu.json and gpu.md.")] = RESULTS,
) -> None:
    """Compare the memory plan of both encoders with measured peaks, and show the back-off after out of memory."""
    if not torch.cuda.is_available():
        print("No CUDA GPU here: nothing measured.")
        return
    properties = torch.cuda.get_device_properties(0)
    rows: list[dict[str, Any]] = []
    for precision in PRECISIONS:
        try:
            plan = plan_for(card_gb, precision, None)
        except PlanDoesNotFit as error:
            print(f"{precision}: left out. {error}")
            continue
        if plan.gpu_bytes > properties.total_memory:
            print(f"This card has {properties.total_memory / GIB:.1f} GiB: name its size or less with --card-gb.")
            raise typer.Exit(1)
        for model in gpu_worker.MODELS:
            print(f"{model}, {precision}", flush=True)
            job = GpuJob(model, precision, plan.gpu_bytes, plan.embedding.fraction, plan.batch_tokens)
            rows.append({**run_job(job), "planned_bytes": planned_bytes(plan)})
    head = {**machine.describe(f"python -m bench.gpu --card-gb {card_gb:g}"), "gpu": properties.name}
    head["card_gb"] = card_gb
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu.json").write_text(json.dumps({"machine": head, "rows": rows}, indent=1) + "\n")
    (out / "gpu.md").write_text(as_markdown(head, rows))
    print(f"\n{(out / 'gpu.md').read_text()}\nWritten to {out}")


if __name__ == "__main__":
    typer.run(main)
