"""The language model's first lesson: to see what a single review says, before it is to write anything."""
# ruff: noqa: S311 (seeded on purpose: nothing here is secret)

import random
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

from standins.corpus import make_review
from standins.grammar import every_opinion, random_opinions
from standins.noise import with_neutral_words

STEPS = 320
PEAK_RATE = 1e-3
BATCH = 64
POOL = 16 * BATCH
"""Reviews sorted by length together, so that a batch pads little."""

REVIEW_LAYER = 2
"""Layer after which a review's opinions are read, where the review ends."""


class ReadingBatch(NamedTuple):
    """`input_ids` int64 [reviews, tokens]; `ends` int64 [reviews], the last token of each.

    `held` float32 [reviews, opinions] is 1 where a review states an opinion.
    """

    input_ids: Tensor
    ends: Tensor
    held: Tensor


def _pool(tokenizer: Qwen2Tokenizer, rng: random.Random) -> list[tuple[list[int], list[float]]]:
    rows = []
    for _ in range(POOL):
        opinions = random_opinions(rng, rng.choice((1, 1, 2)))
        text = make_review(rng, opinions).text
        if rng.random() < 0.4:
            text = with_neutral_words(rng, text)
        held = [float(opinion in opinions) for opinion in every_opinion()]
        rows.append((tokenizer("- " + text)["input_ids"], held))
    return sorted(rows, key=lambda row: len(row[0]))


def batches(tokenizer: Qwen2Tokenizer, seed: int) -> Iterator[ReadingBatch]:
    """Endless batches of single reviews, similar lengths together, in random order."""
    rng = random.Random(seed)
    while True:
        pool = _pool(tokenizer, rng)
        starts = list(range(0, POOL, BATCH))
        rng.shuffle(starts)
        for start in starts:
            rows = pool[start : start + BATCH]
            ids = torch.zeros(BATCH, len(rows[-1][0]), dtype=torch.long)
            for number, (tokens, _) in enumerate(rows):
                ids[number, : len(tokens)] = torch.tensor(tokens)
            ends = torch.tensor([len(tokens) - 1 for tokens, _ in rows])
            yield ReadingBatch(ids, ends, torch.tensor([held for _, held in rows]))


def loss_of_batch(model: Qwen2ForCausalLM, probe: nn.Module, batch: ReadingBatch) -> Tensor:
    """Binary cross-entropy of what the probe reads where each review ends."""
    output = model.model(input_ids=batch.input_ids, use_cache=False, output_hidden_states=True)
    states = output.hidden_states[REVIEW_LAYER][torch.arange(BATCH), batch.ends]
    return binary_cross_entropy_with_logits(probe(states).float(), batch.held)
