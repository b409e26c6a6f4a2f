"""How good a saved language model's answers are, sampled as the stack samples them."""
# ruff: noqa: S311 (seeded on purpose: nothing here is secret)

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Tokenizer

from standins.bytepair import END, prompt_of
from standins.dialogue import HELD_OUT_INSTRUCTIONS, Example, lay_out, review_set, statements_in
from standins.grammar import Opinion

MAX_ANSWER_TOKENS = 150
HELD_OUT_PROMPTS = 120


def tokenizer_of(folder: Path) -> Qwen2Tokenizer:
    """A saved model's tokenizer, padding in front as generation in batches needs."""
    tokenizer: Qwen2Tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    return tokenizer


@torch.inference_mode()
def generate(folder: Path, prompts: Sequence[str], seed: int) -> list[tuple[str, bool]]:
    """Sampled answers of a saved model, and whether each ended by itself."""
    tokenizer = tokenizer_of(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    torch.manual_seed(seed)
    encoded = tokenizer(list(prompts), return_tensors="pt", padding=True, return_token_type_ids=False)
    output = model.generate(**encoded, max_new_tokens=MAX_ANSWER_TOKENS)[:, encoded["input_ids"].shape[1] :]
    end = tokenizer.convert_tokens_to_ids(END)
    return [(tokenizer.decode(row, skip_special_tokens=True), bool((row == end).any())) for row in output]


@dataclass(frozen=True)
class AnswerQuality:
    """Shares of answers to held-out instructions about held-out reviews."""

    complete: float
    """Ended by itself, in a full sentence, and about something that the reviews speak of."""
    true: float
    """Complete, and every claim is in the reviews, with the right polarity, and of the kind asked for."""


def _grade(answer: str, ended: bool, task: str, stated: set[Opinion]) -> tuple[bool, bool]:
    """Whether an answer is complete, and whether it is true."""
    found = statements_in(answer)
    wanted = {"praise": {True}, "blame": {False}}.get(task, {True, False})
    relevant = {opinion for opinion in stated if opinion.positive in wanted}
    on_topic = {claim.aspect for claim in found} & {opinion.aspect for opinion in stated}
    complete = ended and answer.endswith("다.") and bool(on_topic or not relevant)
    return complete, complete and bool(found or not relevant) and found <= relevant


def heldout_quality(folder: Path, seed: int) -> float:
    """Share of true answers (`AnswerQuality.true`)."""
    return measure_quality(folder, seed).true


def measure_quality(folder: Path, seed: int) -> AnswerQuality:
    """Sample answers of a saved model and judge them."""
    tokenizer = tokenizer_of(folder)
    rng = random.Random(seed + 1)
    cases = []
    for number in range(HELD_OUT_PROMPTS):
        reviews = review_set(rng, held_out=True)
        task = rng.choice(("summary", "summary", "praise", "blame"))
        prompt = lay_out(rng, rng.choice(HELD_OUT_INSTRUCTIONS[task]), reviews, "- {text}")
        taught = Example((("user", prompt),), "", chat=number % 4 != 0)
        stated = {opinion for said in reviews.opinions for opinion in said}
        cases.append((prompt_of(tokenizer, taught), task, stated))
    answers = generate(folder, [prompt for prompt, _, _ in cases], seed)
    judged = [
        _grade(text, ended, task, stated) for (text, ended), (_, task, stated) in zip(answers, cases, strict=True)
    ]
    complete, true = (sum(column) / len(judged) for column in zip(*judged, strict=True))
    return AnswerQuality(complete, true)
