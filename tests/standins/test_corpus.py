"""The sample reviews and held-out sets: reproducible, complete and disjoint."""

import json
from collections import Counter, defaultdict
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from standins import corpus
from standins.grammar import HELD_OUT_FRAMES, TRAIN_FRAMES, phrases
from standins.lexicon import aspects

DATA = Path(corpus.__file__).resolve().parents[1]

Rows = list[dict[str, Any]]


def read(name: str) -> Rows:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def reviews() -> Rows:
    return read("sample_reviews.jsonl")


@pytest.mark.parametrize("name", ["sample_reviews.jsonl", "heldout_sentences.jsonl", "heldout_queries.jsonl"])
def test_committed_file_is_what_the_generator_writes(name: str) -> None:
    """Regenerating gives the committed bytes."""
    assert corpus.files()[name].encode() == (DATA / name).read_bytes()


def test_write_puts_every_file_in_the_folder(tmp_path: Path) -> None:
    """The written files are the generated ones."""
    assert {path.name: path.read_text(encoding="utf-8") for path in corpus.write(tmp_path)} == corpus.files()


def test_counts(reviews: Rows) -> None:
    """There is enough of everything."""
    assert len(reviews) >= 600
    assert len({row["restaurant_id"] for row in reviews}) >= 12
    assert len(read("heldout_sentences.jsonl")) >= 300
    assert len(read("heldout_queries.jsonl")) >= 100
    assert len(aspects()) >= 8


def test_review_fields(reviews: Rows) -> None:
    """Every review has well-formed fields; ids and texts are unique."""
    for row in reviews:
        assert set(row) == {
            "review_id", "restaurant_id", "restaurant_name", "rating", "text", "created_at", "sentiment", "aspects",
        }  # fmt: skip
        assert row["rating"] in range(1, 6)
        assert row["sentiment"] in ("positive", "negative")
        assert row["aspects"]
        assert set(row["aspects"]) <= set(aspects())
        assert date.fromisoformat(row["created_at"])
        assert row["text"]
        assert row["text"].strip() == row["text"]
    assert len({row["review_id"] for row in reviews}) == len({row["text"] for row in reviews}) == len(reviews)


def test_ratings_agree_with_sentiment(reviews: Rows) -> None:
    """Top ratings are positive, bottom ones negative."""
    assert {row["sentiment"] for row in reviews if row["rating"] >= 4} == {"positive"}
    assert {row["sentiment"] for row in reviews if row["rating"] <= 2} == {"negative"}


def test_restaurants_have_characters(reviews: Rows) -> None:
    """The aspects a place is known for are the ones its reviews mention most."""
    mentioned: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in reviews:
        mentioned[row["restaurant_id"]].update(row["aspects"])
    for place in corpus.RESTAURANTS:
        known = {*place.loved, *place.blamed}
        assert sum(mentioned[place.id][a] for a in known) > 0.7 * mentioned[place.id].total()


def test_held_out_frames_and_phrases_are_not_trained_on() -> None:
    """No sentence frame and no (subject, predicate) pair is in both splits, yet every word is known."""
    assert not TRAIN_FRAMES.all() & HELD_OUT_FRAMES.all()
    splits: dict[bool, set[tuple[str, str]]] = {True: set(), False: set()}
    for held_out, pairs in splits.items():
        for aspect in aspects():
            for positive in (True, False):
                pairs |= {(p.subject, p.predicate.stem) for p in phrases(aspect, positive, held_out)}
    assert not splits[True] & splits[False]
    assert {subject for subject, _ in splits[True]} <= {subject for subject, _ in splits[False]}
    assert {stem for _, stem in splits[True]} <= {stem for _, stem in splits[False]}


def test_held_out_texts_are_not_in_the_reviews(reviews: Rows) -> None:
    """No held-out sentence or query occurs in a review, nor the other way round."""
    held_out = {row["text"] for name in ("heldout_sentences.jsonl", "heldout_queries.jsonl") for row in read(name)}
    for row in reviews:
        assert row["text"] not in held_out
        assert not any(text in row["text"] for text in held_out)


def test_held_out_sets_are_balanced() -> None:
    """Every aspect is asked for and judged equally often; sentiments are near half and half."""
    for name in ("heldout_sentences.jsonl", "heldout_queries.jsonl"):
        rows = read(name)
        assert len(set(Counter(row["aspect"] for row in rows).values())) == 1
        assert 0.45 < sum(row["sentiment"] == "positive" for row in rows) / len(rows) < 0.55
