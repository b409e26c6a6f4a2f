"""The stand-in sentiment classifier: the lower layers of the encoder stand-in, fine-tuned on sentences of our own."""
# ruff: noqa: S311 (seeded on purpose: nothing here is secret)

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

from standins.corpus import Row, heldout_sentences, label, make_review
from standins.embedding import config_of, fill, tokenizer_of
from standins.everyday import everyday
from standins.grammar import (
    Opinion,
    Phrase,
    every_opinion,
    idiom,
    joined,
    phrases,
    pick_phrase,
    query,
    random_opinions,
    sentence,
)
from standins.korean import particle
from standins.lexicon import CLOSERS, aspects
from standins.loop import autocast, fit, prepare
from standins.model_folder import load_as_float32
from standins.packed_weights import PackedModel, for_korean, packaged_file, read

LABELS = {0: "negative", 1: "positive"}
LAYERS = 8
"""Of the encoder's twelve; the upper ones know more about subjects than about praise and blame."""

FROZEN_LAYERS = 6
"""These, and the embeddings, stay as the encoder has them, so texts go through them once."""

LATIN = 2
"""Most ASCII letters of a piece: without the other pieces the vocabulary, and with it the model, is much smaller."""

TEXTS = 11_264
BATCH = 64
EPOCHS = 3
PEAK_RATE = 5e-4
EVERYDAY = 0.25
"""Share of training texts that are not about restaurants."""


class FrozenBatch(NamedTuple):
    """What the frozen layers make of some texts of similar lengths.

    `states` bfloat16 or float32 [texts, tokens, hidden]; `mask` float32 [texts, 1, 1, tokens] is added to attention's
    scores; `labels` int64 [texts].
    """

    states: Tensor
    mask: Tensor
    labels: Tensor


def example(rng: random.Random) -> tuple[str, bool]:
    """A training text and whether it is positive."""
    if rng.random() < EVERYDAY:
        positive = rng.random() < 0.5
        return everyday(rng, positive), positive
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
    if draw < 0.43:
        return clause(rng, pick_phrase(rng, opinion, held_out=False)), opinion.positive
    # Now and then a long text, so that positions beyond a few sentences are trained too.
    count = rng.choice((1, 1, 1, 2, 2, 3)) if draw < 0.99 else rng.randint(5, 8)
    review = make_review(rng, random_opinions(rng, count))
    return review.text, review.positive


def clause(rng: random.Random, phrase: Phrase) -> str:
    """A part of a sentence, as a mixed one is cut into: «음식은 맛있는데», «주차 힘들고»."""
    subject = phrase.subject
    predicate = phrase.predicate.negated() if phrase.negated else phrase.predicate
    said = predicate.forms[rng.choice(("nde", "jiman", "go", "yo", "past", "ne"))]
    return f"{rng.choice((particle(subject, '은', '는'), particle(subject, '이', '가'), subject))} {said}"


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


def untrained(packed: PackedModel) -> BertForSequenceClassification:
    """A classifier on top of the encoder's lower layers."""
    names = {name: index for index, name in LABELS.items()}
    model = BertForSequenceClassification(config_of(packed, id2label=LABELS, label2id=names))
    fill(model.bert, packed)
    nn.init.eye_(model.bert.pooler.dense.weight)  # the encoder has none of its own
    # Only the first token is read, so its last attention begins as a mean over all, for which the encoder was made.
    last = model.bert.encoder.layer[-1].attention.self.query
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return model


@torch.no_grad()
def frozen_batches(
    encoder: BertModel, tokenizer: PreTrainedTokenizerFast, rows: Sequence[tuple[str, bool]]
) -> list[FrozenBatch]:
    """All training texts after the frozen layers, similar lengths together so that they pad little."""
    rows = sorted(rows, key=lambda row: len(row[0]))
    made = []
    with autocast():
        for start in range(0, len(rows), BATCH):
            texts, labels = zip(*rows[start : start + BATCH], strict=True)
            encoded = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
            mask = (1.0 - encoded["attention_mask"][:, None, None, :].float()) * torch.finfo(torch.float32).min
            states = encoder.embeddings(input_ids=encoded["input_ids"])
            for layer in encoder.encoder.layer[:FROZEN_LAYERS]:
                states = layer(states, mask)
            made.append(FrozenBatch(states, mask, torch.tensor(labels, dtype=torch.long)))
    return made


def epochs(batches: list[FrozenBatch], seed: int) -> Iterator[FrozenBatch]:
    """The batches again and again, in random order."""
    rng = random.Random(seed)
    while True:
        yield from rng.sample(batches, len(batches))


def logits_of(model: BertForSequenceClassification, batch: FrozenBatch) -> Tensor:
    """What the trained layers and the head say."""
    states = batch.states
    for layer in model.bert.encoder.layer[FROZEN_LAYERS:]:
        states = layer(states, batch.mask)
    logits: Tensor = model.classifier(model.dropout(model.bert.pooler(states)))
    return logits


def load(folder: Path) -> tuple[BertForSequenceClassification, PreTrainedTokenizerFast]:
    """A saved classifier, ready to predict."""
    return BertForSequenceClassification.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


@torch.inference_mode()
def predict(
    model: BertForSequenceClassification, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]
) -> list[str]:
    """The label of each text."""
    labels: list[str] = []
    for start in range(0, len(texts), BATCH):
        chunk = list(texts[start : start + BATCH])
        encoded = tokenizer(chunk, padding=True, truncation=True, return_tensors="pt")
        labels += [LABELS[int(index)] for index in model(**encoded).logits.argmax(-1)]
    return labels


def heldout_clauses(count: int = 200, seed: int = 9) -> list[Row]:
    """Clauses of held-out phrases, with their sentiment."""
    rng = random.Random(seed)
    rows: list[Row] = []
    for _ in range(count):
        opinion = rng.choice(every_opinion())
        text = clause(rng, pick_phrase(rng, opinion, held_out=True))
        rows.append({"text": text, "sentiment": label(opinion.positive)})
    return rows


def accuracy(model: BertForSequenceClassification, tokenizer: PreTrainedTokenizerFast, rows: Sequence[Row]) -> float:
    """Share of texts labelled rightly."""
    found = predict(model, tokenizer, [str(row["text"]) for row in rows])
    return sum(label_ == row["sentiment"] for label_, row in zip(found, rows, strict=True)) / len(rows)


def build(folder: Path, seed: int) -> dict[str, float]:
    """Train, save into `folder` and measure."""
    prepare(seed)
    packed = replace(for_korean(read(packaged_file()), LATIN), layers=LAYERS)
    tokenizer = tokenizer_of(packed)
    model = untrained(packed).eval()
    rng = random.Random(seed)
    batches = frozen_batches(model.bert, tokenizer, [example(rng) for _ in range(TEXTS)])
    trained = nn.ModuleList([*model.bert.encoder.layer[FROZEN_LAYERS:], model.bert.pooler, model.classifier])

    def loss_of(batch: FrozenBatch) -> Tensor:
        return cross_entropy(logits_of(model, batch), batch.labels)

    fit("sentiment", trained, epochs(batches, seed), loss_of, steps=EPOCHS * len(batches), peak_rate=PEAK_RATE)
    measured = {
        "heldout_accuracy": round(accuracy(model, tokenizer, heldout_sentences()), 4),
        "heldout_clause_accuracy": round(accuracy(model, tokenizer, heldout_clauses()), 4),
    }
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    load_as_float32(folder)
    return measured
