"""One capped process of `bench.gpu`: reads a job on its standard input, writes its figures to its standard output.

It runs the services' own engines and their own batcher, on random weights of the true sizes.
"""

import asyncio
import json
import random
import sys
import tempfile
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from prometheus_client import CollectorRegistry

from bench import weights
from embedding_service.engine import SentenceEncoder
from onecard.batching.batch_limit import BatchLimit
from onecard.batching.batcher import Batcher, BatcherConfig
from onecard.batching.device_thread import DeviceThread
from onecard.batching.engine import RunningBatch
from onecard.batching.metrics import BatchMetrics
from onecard.batching.queue import Batch, TokenIds
from onecard.batching.worker import PIPELINE_DEPTH
from onecard.gpu.device import Device
from onecard.inference.warm_up import LoadedEngine, run_batch
from onecard.models.folders import ModelFolder
from sentiment_service.engine import Classifier

MODELS = ("classifier", "encoder")
WINDOW = 512
"""Longest text; the plan's largest batch is full of such texts."""
REVIEW_TOKENS = (8, 28)
"""Shortest and longest text where throughput is measured: 18 on average."""
SECONDS = 3.0
"""Length of one throughput measurement."""
BUDGETS = (512, 2_048, 8_192, 32_768, 65_536)
"""Padded tokens in a batch; those over the plan's largest are left out."""
LONG_TEXTS = 512
"""Texts of the back-off demonstration, each as long as the window, allowed in one batch."""


@dataclass(frozen=True)
class BackoffResult:
    """What became of more than the card holds."""

    answered: int
    """Texts."""
    out_of_memory: int
    """Batches that did not fit."""
    budget_tokens: tuple[int, int]
    """At first and at the end."""


def load(model: str, folder: Path, device: Device) -> LoadedEngine[Any]:
    """A service's engine on random weights, which are written to `folder` first."""
    if model == "encoder":
        weights.build(folder)
        return SentenceEncoder(ModelFolder(folder, model, "random", None), device)
    weights.write_classifier(folder)
    return Classifier(ModelFolder(folder, model, "random", None), device)


def texts_of(tokens: int, lengths: tuple[int, int]) -> list[TokenIds]:
    """Texts of random lengths between both, about so many tokens in all; one at least."""
    rng = random.Random(0)
    made: list[TokenIds] = []
    while not made or sum(map(len, made)) + lengths[1] <= tokens:
        made.append([rng.randrange(5, 1_000) for _ in range(rng.randint(*lengths))])
    return made


def texts_per_second(engine: LoadedEngine[Any], budget: int, seconds: float = SECONDS) -> float:
    """Over batches of about `budget` tokens, as many begun at a time as the services begin."""
    texts = texts_of(budget, REVIEW_TOKENS)
    multiple = 8 if torch.cuda.is_available() else 1
    run_batch(engine, texts, multiple)
    begun: deque[RunningBatch[Any]] = deque()
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        begun.append(engine.launch(Batch.from_texts(texts, multiple)))
        if len(begun) == PIPELINE_DEPTH:
            begun.popleft().result()
            count += len(texts)
    while begun:
        begun.popleft().result()
        count += len(texts)
    return count / (time.perf_counter() - started)


async def back_off(engine: LoadedEngine[Any], texts: list[TokenIds]) -> BackoffResult:
    """Hand the batcher a budget that holds all the texts at once, and let it find one that fits."""
    registry = CollectorRegistry()
    first = sum(map(len, texts))
    bounds = BatcherConfig(
        BatchLimit(len(texts), first),
        tokens_per_second=1e6,
        queue_tokens=first,
        hang_timeout_seconds=120,
        width_multiple=8,
    )
    batcher: Batcher[Any] = Batcher(
        engine, bounds, thread=DeviceThread(), metrics=BatchMetrics(registry), on_lost=lambda: None
    )
    outcome = await batcher.submit(texts, lane="bulk", timeout_seconds=300)
    await batcher.close()
    errors = registry.get_sample_value("onecard_batch_out_of_memory_total") or 0
    last = registry.get_sample_value("onecard_batch_budget_tokens") or 0
    return BackoffResult(len(outcome.results), int(errors), (first, int(last)))


def limit_memory(share: float, card_bytes: int) -> None:
    """Hold this process to `share` of a card of `gpu_bytes`, whatever the real one's size."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, share * card_bytes / total))


def run_measurements(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Load, measure the peak at the plan's largest batch, then speed, then provoke a full card."""
    limit_memory(job["share"], job["card_bytes"])
    engine = load(job["model"], folder, Device("cuda:0", job["precision"]))
    loaded = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run_batch(engine, texts_of(job["batch_tokens"], (WINDOW, WINDOW)))
    peak = {
        "peak_reserved_bytes": torch.cuda.max_memory_reserved(),
        "peak_allocated_bytes": torch.cuda.max_memory_allocated(),
    }
    budgets = [budget for budget in BUDGETS if budget <= job["batch_tokens"]]
    speed = {str(budget): texts_per_second(engine, budget) for budget in budgets}
    backed_off = asyncio.run(back_off(engine, texts_of(WINDOW * LONG_TEXTS, (WINDOW, WINDOW))))
    return {"loaded_bytes": loaded, **peak, "texts_per_second": speed, "back_off": asdict(backed_off)}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work_folder:
        json.dump(run_measurements(json.load(sys.stdin), Path(work_folder) / "model"), sys.stdout)
