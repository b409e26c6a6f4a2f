"""One process of `bench.gpu`: reads a job from standard input and writes its figures to standard output.

It runs the services' engines and their batcher with random weights of the real sizes.
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
"""Tokens of the longest text. The plan's largest batch consists of such texts."""
REVIEW_TOKENS = (8, 28)
"""Tokens of the shortest and longest text for throughput, 18 on average."""
SECONDS = 3.0
"""Length of one throughput measurement."""
BUDGETS = (512, 2_048, 8_192, 32_768, 65_536)
"""Padded tokens per batch. Those over the plan's largest batch are left out."""
LONG_TEXTS = 512
"""Texts of the back-off test, each as long as the window, that one batch may hold."""


@dataclass(frozen=True)
class BackoffResult:
    """Result of a batch that exceeds the GPU's memory."""

    answered: int
    """Number of texts with a result."""
    out_of_memory: int
    """Number of batches that ran out of memory."""
    budget_tokens: tuple[int, int]
    """Tokens per batch at the start and at the end."""


def load(model: str, folder: Path, device: Device) -> LoadedEngine[Any]:
    """Load a service's engine with random weights, which are written to `folder` first."""
    if model == "encoder":
        weights.build(folder)
        return SentenceEncoder(ModelFolder(folder, model, "random", None), device)
    weights.write_classifier(folder)
    return Classifier(ModelFolder(folder, model, "random", None), device)


def texts_of(tokens: int, lengths: tuple[int, int]) -> list[TokenIds]:
    """Make texts of random lengths (shortest, longest), of about `tokens` tokens in total; at least one text."""
    rng = random.Random(0)
    made: list[TokenIds] = []
    while not made or sum(map(len, made)) + lengths[1] <= tokens:
        made.append([rng.randrange(5, 1_000) for _ in range(rng.randint(*lengths))])
    return made


def texts_per_second(engine: LoadedEngine[Any], budget: int, seconds: float = SECONDS) -> float:
    """Measure throughput, with as many batches in flight as in the services.

    Args:
        engine: the loaded model.
        budget: padded tokens per batch.
        seconds: how long.

    Returns:
        Texts per second.
    """
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
    """Start the batcher with a limit that allows all texts in one batch, and let it find one that fits."""
    registry = CollectorRegistry()
    first = sum(map(len, texts))
    bounds = BatcherConfig(
        BatchLimit(len(texts), first),
        tokens_per_second=1e6,
        queue_tokens=first,
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
    """Limit this process to `share` of a GPU of `card_bytes`, whatever the size of the real one."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, share * card_bytes / total))


def run_measurements(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Load the model, measure the peak at the plan's largest batch and throughput, and provoke out of memory."""
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
