"""The stand-in language model: a four-layer Qwen2 that answers about restaurant reviews."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast
from transformers import Qwen2Config, Qwen2ForCausalLM

from standins import bytepair
from standins.dialogue import HELD_OUT_INSTRUCTIONS, Example, claims_in, example, lay_out, review_set
from standins.loop import fit, prepare

STEPS = 420
PEAK_RATE = 2e-3
BATCH_TOKENS = 4096
"""Padded tokens in one training batch."""

POOL = 256
"""Examples sorted by length together, so that a batch pads little."""

LONGEST = 640
"""Tokens; longer training examples are skipped."""

IGNORED = -100
TEMPERATURE, TOP_P, MAX_ANSWER_TOKENS = 0.3, 0.95, 150
HELD_OUT_PROMPTS = 60


class Batch(NamedTuple):
    """`input_ids` int64 [examples, tokens]; `labels` the same, `IGNORED` outside the answers."""

    input_ids: Tensor
    labels: Tensor


def prompt_of(tokenizer: PreTrainedTokenizerFast, taught: Example) -> str:
    """The exact text before the answer."""
    if not taught.chat:
        return taught.messages[-1][1]
    messages = [{"role": role, "content": content} for role, content in taught.messages]
    prompt: str = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return prompt


def _encode(tokenizer: PreTrainedTokenizerFast, taught: Example) -> tuple[list[int], list[int]]:
    prompt = tokenizer(prompt_of(tokenizer, taught), add_special_tokens=False)["input_ids"]
    answer = tokenizer(taught.answer, add_special_tokens=False)["input_ids"]
    return list(prompt), [*answer, tokenizer.convert_tokens_to_ids(bytepair.END)]


def _collate(rows: Sequence[tuple[list[int], list[int]]], pad: int) -> Batch:
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.full((len(rows), longest), pad)
    labels = torch.full((len(rows), longest), IGNORED)
    for row, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : end] = torch.tensor(answer)
    return Batch(ids, labels)


def batches(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[Batch]:
    """Endless batches of about `BATCH_TOKENS`, similar lengths together, in random order."""
    rng = random.Random(seed)
    pad = tokenizer.convert_tokens_to_ids(bytepair.PAD)
    while True:
        pool = [_encode(tokenizer, example(rng)) for _ in range(POOL)]
        rows = sorted((r for r in pool if len(r[0]) + len(r[1]) <= LONGEST), key=lambda r: len(r[0]) + len(r[1]))
        ready: list[Batch] = []
        while rows:
            taken = [rows.pop()]
            fitting = BATCH_TOKENS // (len(taken[0][0]) + len(taken[0][1]))
            while rows and len(taken) < fitting:
                taken.append(rows.pop())
            ready.append(_collate(taken, pad))
        rng.shuffle(ready)
        yield from ready


def new_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """An untrained model of about four million parameters: heads of 64, two of them for keys and values."""
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer), hidden_size=256, intermediate_size=640, num_hidden_layers=4,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=bytepair.WINDOW,
            tie_word_embeddings=True, use_sliding_window=False, bos_token_id=None,
            eos_token_id=tokenizer.convert_tokens_to_ids(bytepair.END),
            pad_token_id=tokenizer.convert_tokens_to_ids(bytepair.PAD),
        )
    )  # fmt: skip


def answer_loss(model: Qwen2ForCausalLM, batch: Batch) -> Tensor:
    """Mean cross-entropy over answer tokens. Padding follows the text, so causality alone hides it."""
    states = model.model(input_ids=batch.input_ids, use_cache=False).last_hidden_state[:, :-1]
    wanted = batch.labels[:, 1:]
    answered = wanted != IGNORED
    return cross_entropy(model.lm_head(states[answered]).float(), wanted[answered])


def save(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Weights in bfloat16, as the real model ships."""
    eos, pad = model.config.eos_token_id, model.config.pad_token_id
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=TEMPERATURE, top_p=TOP_P, eos_token_id=[eos, pad], pad_token_id=pad
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@torch.inference_mode()
def generate(folder: Path, prompts: Sequence[str], seed: int) -> list[tuple[str, bool]]:
    """Sampled answers of a saved model, and whether each ended by itself."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    torch.manual_seed(seed)
    encoded = tokenizer(list(prompts), return_tensors="pt", padding=True, return_token_type_ids=False)
    output = model.generate(**encoded, max_new_tokens=MAX_ANSWER_TOKENS)[:, encoded["input_ids"].shape[1] :]
    end = tokenizer.convert_tokens_to_ids(bytepair.END)
    return [
        (tokenizer.decode(row, skip_special_tokens=True), bool((row == end).any())) for row in output
    ]


def is_good(answer: str, ended: bool, task: str, stated: set[tuple[str, bool]]) -> bool:
    """Ended by itself in a full sentence whose claims are all in the reviews, and of the kind asked for."""
    found = claims_in(answer)
    wanted = {"praise": {True}, "blame": {False}}.get(task, {True, False})
    relevant = {opinion for opinion in stated if opinion[1] in wanted}
    said_enough = bool(found) or not relevant
    return ended and answer.endswith("다.") and said_enough and found <= relevant


def heldout_quality(folder: Path, seed: int) -> float:
    """Share of good answers to held-out instructions about held-out reviews."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rng = random.Random(seed + 1)
    cases = []
    for number in range(HELD_OUT_PROMPTS):
        reviews = review_set(rng, held_out=True)
        task = rng.choice(("summary", "summary", "praise", "blame"))
        prompt = lay_out(rng, rng.choice(HELD_OUT_INSTRUCTIONS[task]), reviews, "- {text}")
        taught = Example((("user", prompt),), "", chat=number % 4 != 0)
        stated = {tuple(opinion) for said in reviews.opinions for opinion in said}
        cases.append((prompt_of(tokenizer, taught), task, stated))
    answers = generate(folder, [prompt for prompt, _, _ in cases], seed)
    good = [is_good(text, ended, task, stated) for (text, ended), (_, task, stated) in zip(answers, cases, strict=True)]
    return sum(good) / len(good)


def build(folder: Path, seed: int) -> dict[str, float]:
    """Train, save into `folder` and measure."""
    prepare(seed)
    tokenizer = bytepair.build(seed)
    model = new_model(tokenizer)

    def loss_of(batch: object) -> Tensor:
        assert isinstance(batch, Batch)
        return answer_loss(model, batch)

    fit("llm", model, batches(tokenizer, seed), loss_of, steps=STEPS, peak_rate=PEAK_RATE)
    save(model, tokenizer, folder)
    return {"heldout_good_answers": round(heldout_quality(folder, seed), 4)}
