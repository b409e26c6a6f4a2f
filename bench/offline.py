"""Measures the model without a server: `python -m bench.offline WORKLOAD SECONDS SEED` prints figures.

Its throughput is an upper bound for servers: all texts are known, sorted by length and cut into equal batches. Its
latency is a lower bound: one text at a time, called directly.
"""

import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModel, PreTrainedModel

from bench.cells import SINGLE
from bench.stats import percentile
from bench.workload import WORKLOADS, Workload
from onecard.hardware import cpu_multiplies_bfloat16

BATCH_TEXTS = (8, 16, 32, 64)
MIN_TEXTS = 64
TIME_LIMIT_FACTOR = 2.0
"""Timeout of one batch size, as a multiple of the requested time. Reached only on a busy machine."""
REFERENCE_TEXTS = 16
"""Number of texts whose FP32 vectors are the reference for every contender."""


@dataclass(frozen=True)
class OfflineResult:
    """Figures of the bare model in one precision."""

    precision: str
    texts_per_second: dict[str, float]
    """Values by number of texts per batch."""
    direct_p50_ms: float
    """Latency of one text: tokenise, run, pool, normalise."""
    direct_p95_ms: float

    @property
    def best(self) -> float:
        """Texts per second at the best batch size."""
        return max(self.texts_per_second.values())


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
    """Measure throughput over samples sorted by length and cut into batches.

    Batches run in random order, so that a run which reaches the timeout has processed short and long ones.

    Args:
        model: the model.
        samples: texts.
        batch_texts: texts per batch.
        limit_seconds: timeout.

    Returns:
        Texts per second, of all samples or of those before the timeout.
    """
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


def measure(workload: Workload, precision: str, seconds: float, seed: str) -> OfflineResult:
    """Measure everything in one precision. Each batch size takes about `seconds`."""
    model = BareModel(workload, precision)
    model.encode(workload.texts(32, seed=f"{seed} warm-up"))
    rate = throughput(model, workload.texts(64, seed=f"{seed} rate"), 32)
    count = max(MIN_TEXTS, int(rate * seconds) // 64 * 64)
    samples = workload.texts(count, seed=f"{seed} offline")
    rates = {str(size): throughput(model, samples, size, TIME_LIMIT_FACTOR * seconds) for size in BATCH_TEXTS}
    took = direct(model, workload.texts(count, seed=f"{seed} {SINGLE.key}"), seconds)
    return OfflineResult(precision, rates, percentile(took, 0.5) or 0.0, percentile(took, 0.95) or 0.0)


def reference_texts(workload: Workload) -> list[str]:
    """Make the texts whose vectors are checked after each cell."""
    return workload.texts(REFERENCE_TEXTS, seed="checked")


def write_reference(workload: Workload) -> None:
    """Store the FP32 vectors of the checked texts."""
    vectors = BareModel(workload, "float32").encode(reference_texts(workload))
    workload.reference.parent.mkdir(parents=True, exist_ok=True)
    workload.reference.write_text(json.dumps(vectors.tolist()))


def main() -> None:
    """Measure every precision and print the figures as JSON."""
    workload, seconds, seed = WORKLOADS[sys.argv[1]], float(sys.argv[2]), sys.argv[3]
    json.dump([asdict(measure(workload, precision, seconds, seed)) for precision in precisions()], sys.stdout)


if __name__ == "__main__":
    if sys.argv[2] == "reference":
        write_reference(WORKLOADS[sys.argv[1]])
    else:
        main()
