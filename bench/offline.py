"""The bare model without a server: `python -m bench.offline SECONDS SEED` writes its figures to standard output.

The ceiling for throughput: all texts known beforehand, sorted by length, cut into equal batches. The floor for
latency: one text at a time, called directly.
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

from bench import paths, texts, weights
from bench.cells import SINGLE
from bench.stats import percentile
from onecard.hardware import cpu_multiplies_bfloat16

BATCH_TEXTS = (8, 16, 32, 64)
MIN_TEXTS = 64
TIME_LIMIT_FACTOR = 2.0
"""Most time of one batch size, in multiples of what was asked for; met only where somebody else uses the machine."""
REFERENCE_TEXTS = 16
"""Texts whose FP32 vectors are the reference for every contender's answers."""


@dataclass(frozen=True)
class OfflineResult:
    """What the bare model does in one precision."""

    precision: str
    texts_per_second: dict[str, float]
    """By texts in a batch."""
    direct_p50_ms: float
    """One text: tokenised, run, pooled, normalised."""
    direct_p95_ms: float

    @property
    def best(self) -> float:
        """Texts per second at the best batch size."""
        return max(self.texts_per_second.values())


class BareModel:
    """The model's weights in one precision, on the CPU."""

    def __init__(self, precision: str) -> None:
        self._tokenizer: Tokenizer = Tokenizer.from_file(str(paths.MODEL / "tokenizer.json"))
        self._tokenizer.enable_truncation(weights.WINDOW)
        self._tokenizer.enable_padding()
        self._model: PreTrainedModel = AutoModel.from_pretrained(paths.MODEL, dtype=getattr(torch, precision)).eval()

    def by_length(self, samples: Sequence[str]) -> list[str]:
        """The texts, in order of their tokens."""
        lengths = [sum(text.attention_mask) for text in self._tokenizer.encode_batch(list(samples))]
        return [samples[index] for index in sorted(range(len(samples)), key=lengths.__getitem__)]

    @torch.inference_mode()
    def encode(self, batch: Sequence[str]) -> Tensor:
        """Unit vectors, float32 of shape (texts, 768): the mean over each text's tokens."""
        encoded = self._tokenizer.encode_batch(list(batch))
        ids = torch.tensor([text.ids for text in encoded])
        mask = torch.tensor([text.attention_mask for text in encoded])
        states = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
        kept = mask.unsqueeze(-1).to(states.dtype)
        return torch.nn.functional.normalize(((states * kept).sum(1) / kept.sum(1)).float(), dim=-1)


def precisions() -> list[str]:
    """FP32, and what this project takes on this processor."""
    return ["float32", "bfloat16"] if cpu_multiplies_bfloat16() else ["float32"]


def throughput(model: BareModel, samples: Sequence[str], batch_texts: int, limit_seconds: float = 60) -> float:
    """Texts per second over all samples, cut into batches by length; or over those that ran until the limit.

    Batches run in random order, so that a run which meets the limit has seen short and long ones.
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
    """Milliseconds of single calls, one after the other."""
    took: list[float] = []
    end = time.perf_counter() + seconds
    for text in samples:
        started = time.perf_counter()
        if started > end:
            break
        model.encode([text])
        took.append((time.perf_counter() - started) * 1000)
    return took


def measure(precision: str, seconds: float, seed: str) -> OfflineResult:
    """All figures in one precision; each batch size gets about `seconds`."""
    model = BareModel(precision)
    reviews = weights.reviews()
    model.encode(texts.make(reviews, 32, seed=f"{seed} warm-up"))
    rate = throughput(model, texts.make(reviews, 64, seed=f"{seed} rate"), 32)
    count = max(MIN_TEXTS, int(rate * seconds) // 64 * 64)
    samples = texts.make(reviews, count, seed=f"{seed} offline")
    rates = {str(size): throughput(model, samples, size, TIME_LIMIT_FACTOR * seconds) for size in BATCH_TEXTS}
    took = direct(model, texts.make(reviews, count, seed=f"{seed} {SINGLE.key}"), seconds)
    return OfflineResult(precision, rates, percentile(took, 0.5) or 0.0, percentile(took, 0.95) or 0.0)


def reference_texts() -> list[str]:
    """The texts that every contender is asked for after each cell."""
    return texts.make(weights.reviews(), REFERENCE_TEXTS, seed="checked")


def write_reference() -> None:
    """Keep the FP32 vectors of the checked texts."""
    vectors = BareModel("float32").encode(reference_texts())
    paths.REFERENCE.write_text(json.dumps(vectors.tolist()))


def main() -> None:
    """Measure every precision."""
    seconds, seed = float(sys.argv[1]), sys.argv[2]
    json.dump([asdict(measure(precision, seconds, seed)) for precision in precisions()], sys.stdout)


if __name__ == "__main__":
    if sys.argv[1] == "reference":
        write_reference()
    else:
        main()
