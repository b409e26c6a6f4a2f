"""One capped process of `bench.gpu`: reads a job on its standard input, writes its figures to its standard output."""

import json
import sys
import time
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, BertModel

from bench.backoff import run_all

MODELS = ("classifier", "encoder")
WINDOW = 512
"""Longest text; the plan's largest batch is full of such texts."""
TOKENS = 32
"""Tokens of each text where throughput is measured."""
SECONDS = 3.0
"""Length of one throughput measurement."""
BUDGETS = (512, 2_048, 8_192, 32_768, 65_536)
"""Padded tokens in a batch; those over the plan's largest are left out."""
LONG_TEXTS = 512
"""Texts of the back-off demonstration, each as long as the window, asked for in one batch."""


class Bert:
    """Random BERT-base weights on the GPU."""

    def __init__(self, model: str, precision: str) -> None:
        torch.manual_seed(0)
        config = BertConfig(vocab_size=32_000, num_labels=2)
        kind = BertForSequenceClassification if model == "classifier" else BertModel
        self._model = kind(config).to(getattr(torch, precision)).to("cuda").eval()

    @torch.inference_mode()
    def run(self, texts: int, tokens: int) -> Tensor:
        """A batch without padding: float32 on the CPU, probabilities (texts, 2) or unit vectors (texts, 768)."""
        ids = torch.randint(5, 32_000, (texts, tokens), device="cuda")
        mask = torch.ones_like(ids)
        outputs = self._model(input_ids=ids, attention_mask=mask)
        if hasattr(outputs, "logits"):
            probabilities: Tensor = outputs.logits.float().softmax(-1)
            return probabilities.cpu()
        kept = mask.unsqueeze(-1).to(outputs.last_hidden_state.dtype)
        mean = (outputs.last_hidden_state * kept).sum(1) / kept.sum(1)
        return torch.nn.functional.normalize(mean.float(), dim=-1).cpu()


def cap(share: float, card_bytes: int) -> None:
    """Hold this process to `share` of a card of `card_bytes`, whatever the real one's size."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, share * card_bytes / total))


def texts_per_second(model: Bert, budget: int) -> float:
    """Over batches of `budget` padded tokens."""
    texts = max(1, budget // TOKENS)
    for _ in range(2):
        model.run(texts, TOKENS)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        model.run(texts, TOKENS)  # The result is copied to the CPU, so the batch is done when this returns.
        count += texts
    return count / (time.perf_counter() - started)


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Load, measure the peak at the plan's largest batch, then speed, then provoke a full card."""
    cap(job["share"], job["card_bytes"])
    model = Bert(job["model"], job["precision"])
    loaded = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    model.run(job["batch_tokens"] // WINDOW, WINDOW)
    peak = {
        "peak_reserved_bytes": torch.cuda.max_memory_reserved(),
        "peak_allocated_bytes": torch.cuda.max_memory_allocated(),
    }
    budgets = [budget for budget in BUDGETS if budget <= job["batch_tokens"]]
    speed = {str(budget): texts_per_second(model, budget) for budget in budgets}
    back_off = run_all([WINDOW] * LONG_TEXTS, WINDOW * LONG_TEXTS, model.run, torch.cuda.empty_cache)
    return {"loaded_bytes": loaded, **peak, "texts_per_second": speed, "back_off": asdict(back_off)}


if __name__ == "__main__":
    json.dump(work(json.load(sys.stdin)), sys.stdout)
