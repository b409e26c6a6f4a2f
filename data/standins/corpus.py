"""The sample reviews and the held-out evaluation sets: pure functions of a seed."""
# ruff: noqa: S311 (seeded on purpose: nothing here is secret)

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from standins.grammar import Opinion, pick_phrase, query, random_opinions, say
from standins.lexicon import CLOSERS, aspects
from standins.restaurants import RESTAURANTS, Restaurant

SEED = 20240501
REVIEWS_PER_RESTAURANT = 48
FIRST_DAY = date(2023, 5, 1)
LAST_DAY_OFFSET = 730
"""Days after `FIRST_DAY` on which the last review may be written."""

Row = dict[str, object]


@dataclass(frozen=True)
class Review:
    """A generated text with what it says."""

    text: str
    opinions: tuple[Opinion, ...]
    positive: bool


def label(positive: bool) -> str:
    """The classifier's name for a polarity."""
    return "positive" if positive else "negative"


def overall(opinions: Sequence[Opinion]) -> bool:
    """Polarity of a whole text: the majority, and in a tie what was said last."""
    praise = sum(o.positive for o in opinions)
    return opinions[-1].positive if 2 * praise == len(opinions) else 2 * praise > len(opinions)


def make_review(rng: random.Random, opinions: Sequence[Opinion], *, dishes: Sequence[str] = ()) -> Review:
    """A training-split review; a third end with a closing word that agrees with the whole."""
    text = say(rng, opinions, held_out=False, dishes=dishes)
    positive = overall(opinions)
    if rng.random() < 0.33:
        text += ("" if text[-1] in ".!~" else ".") + " " + rng.choice(CLOSERS[positive])
    return Review(text, tuple(opinions), positive)


def restaurant_opinions(rng: random.Random, place: Restaurant) -> list[Opinion]:
    """One guest's one to three opinions: mostly on what the place is known for, in its usual polarity."""
    known = [*place.loved, *place.blamed]
    others = sorted(set(aspects()) - set(known))
    count = rng.choice((1, 1, 2, 2, 2, 3))
    picked: list[Opinion] = []
    while len(picked) < count:
        aspect = rng.choice(known) if rng.random() < 0.85 else rng.choice(others)
        if any(o.aspect == aspect for o in picked):
            continue
        praised = aspect in place.loved if aspect in known else rng.random() < 0.5
        picked.append(Opinion(aspect, praised if rng.random() < 0.9 else not praised))
    return picked


def rating_of(rng: random.Random, review: Review) -> int:
    """One to five stars, on the same side of three as the sentiment when opinions agree."""
    if len({o.positive for o in review.opinions}) == 1:
        return rng.choice((4, 5, 5)) if review.positive else rng.choice((1, 1, 2))
    return rng.choice((3, 4)) if review.positive else rng.choice((2, 3))


def sample_reviews() -> list[Row]:
    """Rows of `sample_reviews.jsonl`; no text appears twice."""
    rng = random.Random(SEED)
    rows: list[Row] = []
    seen: set[str] = set()
    for place in RESTAURANTS:
        while sum(row["restaurant_id"] == place.id for row in rows) < REVIEWS_PER_RESTAURANT:
            review = make_review(rng, restaurant_opinions(rng, place), dishes=place.dishes)
            if review.text in seen:
                continue
            seen.add(review.text)
            rows.append(_review_row(rng, place, review, len(rows) + 1))
    return rows


def _review_row(rng: random.Random, place: Restaurant, review: Review, number: int) -> Row:
    day = FIRST_DAY + timedelta(days=rng.randrange(LAST_DAY_OFFSET))
    return {
        "review_id": f"rev-{number:04d}",
        "restaurant_id": place.id,
        "restaurant_name": place.name,
        "rating": rating_of(rng, review),
        "text": review.text,
        "created_at": day.isoformat(),
        "sentiment": label(review.positive),
        "aspects": [o.aspect for o in review.opinions],
    }


def heldout_sentences(per_opinion: int = 20) -> list[Row]:
    """Rows of `heldout_sentences.jsonl`: held-out phrases in held-out frames, a fifth of them mixed.

    A mixed sentence takes aspect and sentiment from its second half, which is what it concludes.
    """
    rng = random.Random(SEED + 1)
    rows: dict[str, Row] = {}
    for aspect in aspects():
        for positive in (True, False):
            goal = len(rows) + per_opinion
            while len(rows) < goal:
                opinion = Opinion(aspect, positive)
                said = [opinion]
                if len(rows) % 5 == 0:
                    said = [*_other_first(rng, opinion), opinion]
                text = say(rng, said, held_out=True)
                rows.setdefault(text, {"text": text, "sentiment": label(overall(said)), "aspect": aspect})
    return list(rows.values())


def _other_first(rng: random.Random, opinion: Opinion) -> list[Opinion]:
    others = [o for o in random_opinions(rng, 2) if o.aspect != opinion.aspect]
    return others[:1]


def heldout_queries(per_opinion: int = 8) -> list[Row]:
    """Rows of `heldout_queries.jsonl`; a negated phrase still carries the polarity it means."""
    rng = random.Random(SEED + 2)
    rows: dict[str, Row] = {}
    for aspect in aspects():
        for positive in (True, False):
            goal = len(rows) + per_opinion
            while len(rows) < goal:
                phrase = pick_phrase(rng, Opinion(aspect, positive), held_out=True)
                text = query(rng, phrase, held_out=True)
                rows.setdefault(text, {"text": text, "aspect": aspect, "sentiment": label(positive)})
    return list(rows.values())


def files() -> dict[str, str]:
    """Every generated file by name, as its exact text."""
    tables: Mapping[str, Iterable[Row]] = {
        "sample_reviews.jsonl": sample_reviews(),
        "heldout_sentences.jsonl": heldout_sentences(),
        "heldout_queries.jsonl": heldout_queries(),
    }
    return {name: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows) for name, rows in tables.items()}


def write(folder: Path) -> list[Path]:
    """Write the generated files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in files().items():
        path = folder / name
        path.write_bytes(text.encode())
        written.append(path)
    return written
