"""Measures the model without a server: `python -m bench.offline WORKLOAD SECONDS SEED` prints figures.

Its throughput is an upper bound for servers: all texts are known, sorted by length and cut into equal batches. Its
latency is a lower bound: one text at a time, called directly.
"""

import json
import random
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModel, PreTrainedModel

from bench.load import SINGLE
from bench.measurements import percentiles
from bench.workload import WORKLOADS, Workload
from onecard.hardware import cpu_multiplies_bfloat16

BATCH_TEXTS = (8, 16, 32, 64)
MIN_TEXTS = 64
TIME_LIMIT_FACTOR = 2.0
"""Timeout of one batch size, as a multiple of the requested time. Reached only on a busy machine."""


class BareModel:
    """The model in one precision, on the CPU."""

    def __init__(self, workload: Workload, precision: str) -> None:
        self._tokenizer: Tokenizer = Tokenizer.from_file(str(workload.model / "tokenizer.json"))
        self._tokenizer.enable_truncation(workload.window)
        self._tokenizer.enable_padding()
        self._model: PreTrainedModel = AutoModel.from_pretrained(workload.model, dtype=getattr(torch, precision)).eval()

    def by_length(self, samples: Sequence[str]) -> list[str]:
        """Sort texts by their number of tokens."""
        lengths = [sum(text.attention_mask) for text in self._tokenizer.encode_batch(list(samples))]
        return [samples[index] for index in sorted(range(len(samples)), key=lengths.__getitem__)]

    @torch.inference_mode()
    def encode(self, batch: Sequence[str]) -> Tensor:
        """Compute unit vectors, float32 of shape (texts, size): the normalised mean over each text's tokens."""
        encoded = self._tokenizer.encode_batch(list(batch))
        ids = torch.tensor([text.ids for text in encoded])
        mask = torch.tensor([text.attention_mask for text in encoded])
        states = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
        kept = mask.unsqueeze(-1).to(states.dtype)
        return torch.nn.functional.normalize(((states * kept).sum(1) / kept.sum(1)).float(), dim=-1)


def precisions() -> list[str]:
    """List FP32, and the precision that this project uses on this CPU."""
    return ["float32", "bfloat16"] if cpu_multiplies_bfloat16() else ["float32"]


def throughput(model: BareModel, samples: Sequence[str], batch_texts: int, limit_seconds: float = 60) -> float:
    """Measure texts a second in batches of similar lengths, run in random order so that a timeout favours none."""
    ordered = model.by_length(samples)
    batches = [ordered[start : start + batch_texts] for start in range(0, len(ordered), batch_texts)]
    random.Random(len(ordered)).shuffle(batches)
    count, started = 0, time.perf_counter()
    for batch in batches:
        model.encode(batch)
        count += len(batch)
        if time.perf_counter() - started > limit_seconds:
            break
    return count / (time.perf_counter() - started)


def direct(model: BareModel, samples: Sequence[str], seconds: float) -> list[float]:
    """Measure single calls one after the other for `seconds`. Returns latencies in ms."""
    took: list[float] = []
    end = time.perf_counter() + seconds
    for text in samples:
        started = time.perf_counter()
        if started > end:
            break
        model.encode([text])
        took.append((time.perf_counter() - started) * 1000)
    return took


def measure(workload: Workload, precision: str, seconds: float, seed: str) -> dict[str, Any]:
    """Measure the bare model in one precision, each batch size for about `seconds`, and direct calls of one text."""
    model = BareModel(workload, precision)
    model.encode(workload.texts(32, seed=f"{seed} warm-up"))
    rate = throughput(model, workload.texts(64, seed=f"{seed} rate"), 32)
    count = max(MIN_TEXTS, int(rate * seconds) // 64 * 64)
    samples = workload.texts(count, seed=f"{seed} offline")
    rates = {str(size): throughput(model, samples, size, TIME_LIMIT_FACTOR * seconds) for size in BATCH_TEXTS}
    took = percentiles(direct(model, workload.texts(count, seed=f"{seed} {SINGLE.key}"), seconds), 50, 95)
    calls = {f"direct_{name}": value or 0.0 for name, value in took.items()}
    return {"precision": precision, "texts_per_second": rates, **calls}


def write_reference(workload: Workload) -> None:
    """Store the FP32 vectors of the checked texts."""
    vectors = BareModel(workload, "float32").encode(workload.checked_texts())
    workload.reference.parent.mkdir(parents=True, exist_ok=True)
    workload.reference.write_text(json.dumps(vectors.tolist()))


if __name__ == "__main__":
    served = WORKLOADS[sys.argv[1]]
    if sys.argv[2] == "reference":
        write_reference(served)
    else:
        seconds, seed = float(sys.argv[2]), sys.argv[3]
        json.dump([measure(served, precision, seconds, seed) for precision in precisions()], sys.stdout)
