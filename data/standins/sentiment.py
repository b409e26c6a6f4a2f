"""The stand-in sentiment classifier: a three-layer BERT."""
# ruff: noqa: S311 (seeded on purpose: nothing here is secret)

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

from standins import wordpiece
from standins.corpus import heldout_sentences, make_review
from standins.grammar import (
    Opinion,
    Phrase,
    idiom,
    joined,
    phrases,
    pick_phrase,
    query,
    random_opinions,
    sentence,
)
from standins.lexicon import CLOSERS, aspects
from standins.loop import fit, prepare
from standins.noise import with_neutral_words

LABELS = {0: "negative", 1: "positive"}
WINDOW = 512
STEPS = 900
BATCH = 64
POOL = 16 * BATCH
"""Texts sorted by length together."""

PEAK_RATE = 1e-3
NOISE = 0.02
"""Share of tokens replaced by `[UNK]` in training, so that no single word decides."""


class SentimentBatch(NamedTuple):
    """`input_ids` and `attention_mask` int64 [texts, tokens]; `labels` int64 [texts]."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor


def example(rng: random.Random) -> tuple[str, bool]:
    """A training text and whether it is positive."""
    draw = rng.random()
    if draw < 0.06:
        positive = rng.random() < 0.5
        return rng.choice(CLOSERS[positive]), positive
    opinion = Opinion(rng.choice(sorted(aspects())), rng.random() < 0.5)
    if draw < 0.12:
        return idiom(rng, opinion), opinion.positive
    if draw < 0.18:
        return query(rng, pick_phrase(rng, opinion, held_out=False), held_out=False), opinion.positive
    if draw < 0.28:
        return _negated(rng, opinion), opinion.positive
    # Now and then a long text, so that positions beyond a few sentences are trained too.
    count = rng.choice((1, 1, 1, 2, 2, 3)) if draw < 0.99 else rng.randint(5, 8)
    review = make_review(rng, random_opinions(rng, count))
    return review.text, review.positive


def _negated(rng: random.Random, opinion: Opinion) -> str:
    """An opinion said by negating its opposite, alone, without a subject, or after another opinion."""
    opposites = [p for p in phrases(opinion.aspect, not opinion.positive, False) if p.predicate.negatable]
    opposite = rng.choice(opposites)
    phrase = Phrase(opinion, opposite.subject, opposite.predicate, negated=True)
    draw = rng.random()
    if draw < 0.2:
        return phrase.predicate.negated().forms[rng.choice(("yo", "past", "ne", "formal", "um"))] + "."
    if draw < 0.6:
        return sentence(rng, phrase, held_out=False)
    other = Opinion(rng.choice([a for a in aspects() if a != opinion.aspect]), rng.random() < 0.5)
    return joined(rng, pick_phrase(rng, other, held_out=False), phrase, held_out=False)


def batches(tokenizer: BertTokenizer, seed: int) -> Iterator[SentimentBatch]:
    """Endless training batches, similar lengths together so that they pad little, in random order."""
    rng = random.Random(seed)
    noise = torch.Generator().manual_seed(seed)
    while True:
        pool = sorted((example(rng) for _ in range(POOL)), key=lambda row: len(row[0]))
        starts = list(range(0, POOL, BATCH))
        rng.shuffle(starts)
        for start in starts:
            rows = pool[start : start + BATCH]
            texts = [with_neutral_words(rng, text) for text, _ in rows]
            encoded = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
            ids = encoded["input_ids"]
            hidden = (torch.rand(ids.shape, generator=noise) < NOISE) & (ids >= len(wordpiece.SPECIAL))
            ids = ids.masked_fill(hidden, tokenizer.unk_token_id)
            yield SentimentBatch(ids, encoded["attention_mask"], torch.tensor([int(positive) for _, positive in rows]))


def new_model(vocabulary_size: int) -> BertForSequenceClassification:
    """An untrained classifier. Position vectors start at zero, so untrained ones stay neutral."""
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=vocabulary_size, hidden_size=192, num_hidden_layers=3, num_attention_heads=3,
            intermediate_size=384, max_position_embeddings=WINDOW, hidden_dropout_prob=0.05,
            attention_probs_dropout_prob=0.0, id2label=LABELS,
            label2id={name: index for index, name in LABELS.items()},
        )
    )  # fmt: skip
    nn.init.zeros_(model.bert.embeddings.position_embeddings.weight)
    return model


def load(folder: Path) -> tuple[BertForSequenceClassification, BertTokenizer]:
    """A saved classifier, ready to predict."""
    return BertForSequenceClassification.from_pretrained(folder).eval(), BertTokenizer.from_pretrained(folder)


@torch.inference_mode()
def predict(model: BertForSequenceClassification, tokenizer: BertTokenizer, texts: Sequence[str]) -> list[str]:
    """The label of each text."""
    labels: list[str] = []
    for start in range(0, len(texts), BATCH):
        chunk = list(texts[start : start + BATCH])
        encoded = tokenizer(chunk, padding=True, truncation=True, return_tensors="pt")
        labels += [LABELS[int(index)] for index in model(**encoded).logits.argmax(-1)]
    return labels


def accuracy(model: BertForSequenceClassification, tokenizer: BertTokenizer) -> float:
    """Share of the held-out sentences labelled rightly."""
    rows = heldout_sentences()
    found = predict(model, tokenizer, [str(row["text"]) for row in rows])
    return sum(label_ == row["sentiment"] for label_, row in zip(found, rows, strict=True)) / len(rows)


def build(folder: Path, seed: int) -> dict[str, float]:
    """Train, save into `folder` and measure."""
    prepare(seed)
    tokenizer = wordpiece.build(WINDOW)
    model = new_model(len(tokenizer))
    model.set_attn_implementation("eager")  # on CPU, for texts this short, faster than SDPA

    def loss_of(batch: SentimentBatch) -> Tensor:
        loss: Tensor = model(**batch._asdict()).loss
        return loss

    fit("sentiment", model, batches(tokenizer, seed), loss_of, steps=STEPS, peak_rate=PEAK_RATE)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"heldout_accuracy": round(accuracy(model, tokenizer), 4)}
