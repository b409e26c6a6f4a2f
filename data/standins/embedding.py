"""The stand-in sentence encoder: a one-layer BERT with mean pooling, trained contrastively."""
# ruff: noqa: S311 (seeded on purpose: nothing here is secret)

import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, normalize
from transformers import BatchEncoding, BertConfig, BertModel, BertTokenizer

from standins import wordpiece
from standins.corpus import heldout_queries, make_review, sample_reviews
from standins.grammar import Opinion, every_opinion, pick_phrase, query, random_opinions
from standins.loop import fit, prepare
from standins.noise import with_neutral_words

WINDOW = 128
POSITIONS = 512
STEPS = 300
PEAK_RATE = 5e-4
TEMPERATURE = 0.07
"""Divides cosines before the softmax."""

NOISE = 0.02
"""Share of tokens replaced by `[UNK]` in training."""

REVIEWS_PER_OPINION = 2
PROBE_WEIGHT = 4.0
POLARITY_WEIGHT = 1.0


class ContrastiveBatch(NamedTuple):
    """Tokens int64 [texts, tokens] of queries and of reviews, and which opinion each text holds.

    Both `held` are bool [texts, opinions]; an opinion and its opposite are neighbours (2i, 2i + 1).
    """

    queries: BatchEncoding
    reviews: BatchEncoding
    queries_held: Tensor
    reviews_held: Tensor


def _review(rng: random.Random, opinion: Opinion) -> tuple[str, tuple[Opinion, ...]]:
    others = [o for o in random_opinions(rng, 3) if o.aspect != opinion.aspect]
    opinions = [opinion, *others[: rng.choice((0, 0, 1, 1, 2))]]
    rng.shuffle(opinions)
    return make_review(rng, opinions).text, tuple(opinions)


def _query(rng: random.Random, opinion: Opinion) -> str:
    if rng.random() < 0.3:
        return make_review(rng, [opinion]).text
    return query(rng, pick_phrase(rng, opinion, held_out=False), held_out=False)


def batches(tokenizer: BertTokenizer, seed: int) -> Iterator[ContrastiveBatch]:
    """Endless batches with every opinion asked for once and answered by a few reviews."""
    rng = random.Random(seed)
    noise = torch.Generator().manual_seed(seed)

    def encode(texts: list[str]) -> BatchEncoding:
        noisy = [with_neutral_words(rng, text) for text in texts]
        encoded = tokenizer(noisy, padding=True, truncation=True, max_length=64, return_tensors="pt")
        ids = encoded["input_ids"]
        hidden = (torch.rand(ids.shape, generator=noise) < NOISE) & (ids >= len(wordpiece.SPECIAL))
        encoded["input_ids"] = ids.masked_fill(hidden, tokenizer.unk_token_id)
        return encoded

    asked = every_opinion()
    while True:
        reviews = [_review(rng, opinion) for opinion in asked for _ in range(REVIEWS_PER_OPINION)]
        held = [set(opinions) for _, opinions in reviews]
        yield ContrastiveBatch(
            encode([_query(rng, opinion) for opinion in asked]),
            encode([text for text, _ in reviews]),
            torch.eye(len(asked), dtype=torch.bool),
            torch.tensor([[o in opinions for o in asked] for opinions in held]),
        )


def new_model(vocabulary_size: int) -> BertModel:
    """An untrained encoder. Position vectors start at zero, so untrained ones stay neutral."""
    model = BertModel(
        BertConfig(
            vocab_size=vocabulary_size, hidden_size=768, num_hidden_layers=1, num_attention_heads=12,
            intermediate_size=512, max_position_embeddings=POSITIONS, hidden_dropout_prob=0.05,
            attention_probs_dropout_prob=0.0,
        )
    )  # fmt: skip
    nn.init.zeros_(model.embeddings.position_embeddings.weight)
    return model


def embed(model: BertModel, encoded: BatchEncoding) -> Tensor:
    """Unit vectors float32 [texts, 768]: the mean over each text's tokens."""
    states = model(**encoded).last_hidden_state.float()
    mask = encoded["attention_mask"].unsqueeze(-1).float()
    return normalize((states * mask).sum(1) / mask.sum(1), dim=-1)


def loss_of_batch(model: BertModel, probe: nn.Linear, batch: ContrastiveBatch) -> Tensor:
    """Contrastive loss, plus that of a probe that reads the opinions off each vector.

    The probe is thrown away; it is there because labels teach a young encoder faster than comparisons do.
    """
    queries, reviews = embed(model, batch.queries), embed(model, batch.reviews)
    with torch.autocast("cpu", enabled=False):  # bfloat16 cosines would be too coarse to rank by
        logits = queries @ reviews.T / TEMPERATURE
        same = batch.queries_held.float() @ batch.reviews_held.T.float() > 0
        opposite = batch.queries_held.reshape(len(queries), -1, 2).flip(2).flatten(1)
        near = opposite.float() @ batch.reviews_held.T.float() > 0
        contrast = _choice(logits, same, near) + _choice(logits.T, same.T, near.T)
        read = probe(torch.cat((queries, reviews)) * probe.in_features**0.5)
        held = torch.cat((batch.queries_held, batch.reviews_held)).float()
        return contrast / 2 + PROBE_WEIGHT * binary_cross_entropy_with_logits(read, held)


def _choice(logits: Tensor, same: Tensor, near: Tensor) -> Tensor:
    """Mean over rows: the right opinion among all, and once more among those on the same aspect."""
    whole = logits.logsumexp(1)
    aspect = logits.masked_fill(~(same | near), -torch.inf).logsumexp(1)
    right = logits.masked_fill(~same, -torch.inf).logsumexp(1)
    return (whole - right).mean() + POLARITY_WEIGHT * (aspect - right).mean()


@torch.inference_mode()
def accuracy(encoder: SentenceTransformer) -> tuple[float, float]:
    """Shares of held-out queries whose nearest sample review has the aspect, and also the sentiment."""
    reviews, queries = sample_reviews(), heldout_queries()
    options = {"normalize_embeddings": True, "convert_to_tensor": True, "show_progress_bar": False}
    corpus = encoder.encode([str(row["text"]) for row in reviews], **options)
    asked = encoder.encode([str(row["text"]) for row in queries], **options)
    best = (asked @ corpus.T).argmax(1).tolist()
    found = [(row, reviews[index]) for row, index in zip(queries, best, strict=True)]
    right = [(row, review) for row, review in found if row["aspect"] in review["aspects"]]
    agreeing = [row for row, review in right if row["sentiment"] == review["sentiment"]]
    return len(right) / len(found), len(agreeing) / len(found)


def build(folder: Path, seed: int) -> dict[str, float]:
    """Train, save into `folder` in sentence-transformers format, and measure."""
    prepare(seed)
    tokenizer = wordpiece.build(WINDOW)
    model = new_model(len(tokenizer))
    model.set_attn_implementation("eager")  # on CPU, for texts this short, faster than SDPA
    probe = nn.Linear(model.config.hidden_size, len(every_opinion()))

    def loss_of(batch: ContrastiveBatch) -> Tensor:
        return loss_of_batch(model, probe, batch)

    fit(
        "embedding",
        nn.ModuleList((model, probe)),
        batches(tokenizer, seed),
        loss_of,
        steps=STEPS,
        peak_rate=PEAK_RATE,
    )
    encoder = assemble(model, tokenizer, folder)
    aspect, both = accuracy(encoder)
    return {"heldout_top1_aspect": round(aspect, 4), "heldout_top1_aspect_and_sentiment": round(both, 4)}


def assemble(model: BertModel, tokenizer: BertTokenizer, folder: Path) -> SentenceTransformer:
    """Save as a sentence-transformers folder and return it as loaded back."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    transformer = Transformer(str(folder), max_seq_length=WINDOW)
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="mean")
    SentenceTransformer(modules=[transformer, pooling], device="cpu").save(str(folder), create_model_card=False)
    return SentenceTransformer(str(folder), device="cpu")
