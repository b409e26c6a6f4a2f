"""The stand-in language model: a four-layer Qwen2 that answers about restaurant reviews."""
# ruff: noqa: S311 (seeded on purpose: nothing here is secret)

import itertools
import random
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from standins import bytepair, reading
from standins.answer_quality import heldout_quality
from standins.dialogue import TASKS, Example, example
from standins.grammar import Opinion, every_opinion
from standins.loop import fit, prepare
from standins.reading import REVIEW_LAYER

STEPS = 440
PEAK_RATE = 1e-3

BATCH_TOKENS = 2048
"""Padded tokens in one training batch."""

SORT_POOL = 256
"""Examples sorted by length together, so that a batch pads little."""

CURRICULUM = ((6, 1), (16, 3))
"""(pools, reviews): up to that many pools, examples hold at most so many reviews."""

MAX_REVIEWS = 12
MAX_EXAMPLE_TOKENS = 640
"""Tokens; longer training examples are skipped."""

VERDICT_LAYER = REVIEW_LAYER + 1
"""Layer after which a probe reads what all reviews say together."""

PROBE_WEIGHT = 4.0
IGNORED = -100
TEMPERATURE, TOP_P = 0.3, 0.95


class AnswerBatch(NamedTuple):
    """`input_ids` int64 [examples, tokens]; `labels` the same, `IGNORED` outside the answers.

    `ends` int64 [reviews, 2] is the example and the token where each review ends; `held` float32
    [reviews, opinions] is 1 where it states an opinion.
    """

    input_ids: Tensor
    labels: Tensor
    ends: Tensor
    held: Tensor
    verdicts: Tensor
    """float32 [examples, opinions]: 1 where the reviews as a whole state an opinion."""
    tasks: Tensor
    """int64 [examples]: index into `TASKS`."""


class TokenizedExample(NamedTuple):
    """One tokenised example; `ends` and `held` as in `Batch`, for this example's reviews."""

    prompt: list[int]
    answer: list[int]
    ends: list[int]
    held: list[list[float]]
    verdicts: list[float]
    task: int

    @property
    def tokens(self) -> int:
        """Length of prompt and answer together."""
        return len(self.prompt) + len(self.answer)


def _encode(tokenizer: Qwen2Tokenizer, taught: Example) -> TokenizedExample:
    text = bytepair.prompt_of(tokenizer, taught)
    prompt = tokenizer(text, add_special_tokens=False)
    answer = tokenizer(taught.answer, add_special_tokens=False)["input_ids"]
    ends, held, cursor = [], [], 0
    for review, opinions in taught.told:
        cursor = text.index(review, cursor) + len(review)
        ends.append(prompt.char_to_token(cursor - 1))
        held.append(_indicators(opinions))
    answer = [*answer, tokenizer.convert_tokens_to_ids(bytepair.END)]
    return TokenizedExample(
        prompt["input_ids"], answer, ends, held, _indicators(taught.verdicts), TASKS.index(taught.task)
    )


def _indicators(opinions: Collection[Opinion]) -> list[float]:
    return [float(opinion in opinions) for opinion in every_opinion()]


def _collate(rows: Sequence[TokenizedExample], pad: int) -> AnswerBatch:
    ids = torch.full((len(rows), max(row.tokens for row in rows)), pad)
    labels = torch.full_like(ids, IGNORED)
    for number, row in enumerate(rows):
        ids[number, : row.tokens] = torch.tensor(row.prompt + row.answer)
        labels[number, len(row.prompt) : row.tokens] = torch.tensor(row.answer)
    ends = [(number, end) for number, row in enumerate(rows) for end in row.ends]
    held = [line for row in rows for line in row.held]
    width = len(every_opinion())
    return AnswerBatch(
        ids,
        labels,
        torch.tensor(ends).reshape(-1, 2),
        torch.tensor(held).reshape(-1, width),
        torch.tensor([row.verdicts for row in rows]),
        torch.tensor([row.task for row in rows]),
    )


def batches(tokenizer: Qwen2Tokenizer, seed: int) -> Iterator[AnswerBatch]:
    """Endless batches of about `BATCH_TOKENS`, similar lengths together, in random order."""
    rng = random.Random(seed)
    pad = tokenizer.convert_tokens_to_ids(bytepair.PAD)
    for number in itertools.count():
        most = next((reviews for pools, reviews in CURRICULUM if number < pools), MAX_REVIEWS)
        pool = [_encode(tokenizer, example(rng, most=most)) for _ in range(SORT_POOL)]
        rows = sorted((row for row in pool if row.tokens <= MAX_EXAMPLE_TOKENS), key=lambda row: row.tokens)
        ready: list[AnswerBatch] = []
        while rows:
            taken = [rows.pop()]
            fitting = BATCH_TOKENS // taken[0].tokens
            while rows and len(taken) < fitting:
                taken.append(rows.pop())
            ready.append(_collate(taken, pad))
        rng.shuffle(ready)
        yield from ready


def new_model(tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    """An untrained model of about three million parameters: heads of 64, two of them for keys and values."""
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer), hidden_size=256, intermediate_size=384, num_hidden_layers=4,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=bytepair.WINDOW,
            tie_word_embeddings=True, use_sliding_window=False, bos_token_id=None,
            eos_token_id=tokenizer.convert_tokens_to_ids(bytepair.END),
            pad_token_id=tokenizer.convert_tokens_to_ids(bytepair.PAD),
        )
    )  # fmt: skip


def loss_of_batch(model: Qwen2ForCausalLM, probes: nn.ModuleList, batch: AnswerBatch) -> Tensor:
    """Mean cross-entropy over answer tokens, plus that of three probes. Causality alone hides the padding.

    One probe reads each review's opinions where the review ends, one the task where the prompt ends, and one
    at every answer token what all reviews say. They are thrown away; they are there because answers alone
    teach understanding slowly.
    """
    output = model.model(input_ids=batch.input_ids, use_cache=False, output_hidden_states=True)
    wanted = batch.labels[:, 1:]
    answered = wanted != IGNORED
    logits = model.lm_head(output.last_hidden_state[:, :-1][answered]).float()
    loss = cross_entropy(logits, wanted[answered])
    early, late = (output.hidden_states[layer][:, :-1] for layer in (REVIEW_LAYER, VERDICT_LAYER))
    said = batch.verdicts[answered.nonzero()[:, 0]]
    loss = loss + PROBE_WEIGHT * binary_cross_entropy_with_logits(probes[1](late[answered]).float(), said)
    asked = answered.clone()
    asked[:, 1:] &= ~answered[:, :-1]
    loss = loss + cross_entropy(probes[2](early[asked]).float(), batch.tasks)
    if len(batch.ends):
        read = probes[0](early[batch.ends[:, 0], batch.ends[:, 1]]).float()
        loss = loss + PROBE_WEIGHT * binary_cross_entropy_with_logits(read, batch.held)
    return loss


def save(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, folder: Path) -> None:
    """Weights in bfloat16, as the real model ships."""
    eos, pad = model.config.eos_token_id, model.config.pad_token_id
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=TEMPERATURE, top_p=TOP_P, eos_token_id=[eos, pad], pad_token_id=pad
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def build(folder: Path, seed: int) -> dict[str, float]:
    """Train, save into `folder` and measure."""
    prepare(seed)
    tokenizer = bytepair.build(seed)
    model = new_model(tokenizer)
    model.set_attn_implementation("eager")  # on CPU, for texts this short, faster than SDPA
    hidden = model.config.hidden_size
    widths = (len(every_opinion()), len(every_opinion()), len(TASKS))
    probes = nn.ModuleList(nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, width)) for width in widths)

    def loss_of(batch: AnswerBatch) -> Tensor:
        return loss_of_batch(model, probes, batch)

    def reading_loss(batch: reading.ReadingBatch) -> Tensor:
        return reading.loss_of_batch(model, probes[0], batch)

    fit(
        "llm, reading",
        nn.ModuleList((model.model, probes)),
        reading.batches(tokenizer, seed),
        reading_loss,
        steps=reading.STEPS,
        peak_rate=reading.PEAK_RATE,
    )
    fit(
        "llm",
        nn.ModuleList((model, probes)),
        batches(tokenizer, seed),
        loss_of,
        steps=STEPS,
        peak_rate=PEAK_RATE,
    )
    save(model, tokenizer, folder)
    return {"heldout_good_answers": round(heldout_quality(folder, seed), 4)}
