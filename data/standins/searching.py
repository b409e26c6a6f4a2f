"""What search is tuned and measured with: queries to tune it on, and what every sample review says.

Apart from `corpus`, whose code is part of the models' recipe.
"""
# ruff: noqa: S311 (seeded on purpose: nothing here is secret)

import random
from collections.abc import Iterable, Sequence

from standins.corpus import (
    REVIEWS_PER_RESTAURANT,
    SEED,
    Row,
    _review_row,
    label,
    make_review,
    restaurant_opinions,
    sample_reviews,
)
from standins.grammar import Opinion, Phrase, _fields, every_opinion, frames_of, phrases
from standins.restaurants import RESTAURANTS

HELD_OUT_DISHES = tuple(dish for place in RESTAURANTS[::2] for dish in place.dishes)
"""Those of the first restaurant, the third, and so on: no tuning query names one."""
TUNING_DISHES = tuple(dish for place in RESTAURANTS[1::2] for dish in place.dishes)
PARTICLES = ("", "이", "가", "은", "는", "도")


class Answers:
    """Which sample reviews are right for a query: their ids. A query that has a `dish` is only answered by reviews that
    name it."""

    def __init__(self) -> None:
        self._said = sample_opinions()
        self._sentiments = {str(row["review_id"]): row["sentiment"] for row in sample_reviews()}
        self._words = {str(row["review_id"]): frozenset(str(row["text"]).split()) for row in sample_reviews()}

    def says(self, query: Row) -> frozenset[str]:
        """Reviews that say what is asked for."""
        asked = Opinion(str(query["aspect"]), query["sentiment"] == "positive")
        return self._about(query, (review_id for review_id, said in self._said.items() if asked in said))

    def labelled(self, query: Row) -> frozenset[str]:
        """Reviews that speak of the aspect, and are labelled with the sentiment as a whole."""
        alike = (review_id for review_id, sentiment in self._sentiments.items() if sentiment == query["sentiment"])
        return self._about(
            query,
            (one for one in alike if any(opinion.aspect == query["aspect"] for opinion in self._said[one])),
        )

    def naming(self, dish: str) -> frozenset[str]:
        """Reviews that name a dish as a word: «순대국» does not name «순대»."""
        forms = {dish + particle for particle in PARTICLES}
        return frozenset(review_id for review_id, words in self._words.items() if not forms.isdisjoint(words))

    def _about(self, query: Row, review_ids: Iterable[str]) -> frozenset[str]:
        found = frozenset(review_ids)
        return found & self.naming(str(query["dish"])) if "dish" in query else found


def about_dishes(queries: Sequence[Row], dishes: Sequence[str], answers: Answers) -> list[Row]:
    """The queries, each after the name of a dish: «갈비찜 직원이 친절한 곳».

    The dish is drawn from those about which a review is right by both judgements. A query for which there is none is
    left out.
    """
    rng = random.Random(SEED + 4)
    naming = {dish: answers.naming(dish) for dish in dishes}
    made: list[Row] = []
    for query in queries:
        right = answers.says(query) & answers.labelled(query)
        answered = [dish for dish in dishes if right & naming[dish]]
        if answered:
            dish = rng.choice(answered)
            made.append({**query, "text": f"{dish} {query['text']}", "dish": dish})
    return made


def sample_opinions() -> dict[str, frozenset[Opinion]]:
    """Review id → what the sample review says. A review's sentiment is that of the whole; one in four of the opinions
    in the sample goes against it."""
    rng = random.Random(SEED)
    said: dict[str, frozenset[Opinion]] = {}
    seen: set[str] = set()
    for number, place in enumerate(RESTAURANTS, 1):
        while len(said) < number * REVIEWS_PER_RESTAURANT:
            review = make_review(rng, restaurant_opinions(rng, place), dishes=place.dishes)
            if review.text in seen:
                continue
            seen.add(review.text)
            row = _review_row(rng, place, review, len(said) + 1)
            said[str(row["review_id"])] = frozenset(review.opinions)
    return said


def tuning_queries(held_out: Sequence[Row], plain: int = 20, negated: int = 3) -> list[Row]:
    """Queries like the held-out ones, of phrases that these do not have, and in training's frames.

    Neither the reviews nor the encoder's training have the phrases, as with the held-out queries. Opinions of which the
    held-out queries have every phrase are left out.

    Args:
        held_out: rows of `heldout_queries.jsonl`.
        plain: at most so many for an opinion.
        negated: at most so many more that negate its opposite; the held-out queries have about one in eight.
    """
    rng = random.Random(SEED + 3)
    taken = {str(row["text"]) for row in held_out}
    rows: list[Row] = []
    for opinion in every_opinion():
        opposite = opinion._replace(positive=not opinion.positive)
        own, turned = _unused(opinion, taken), [p for p in _unused(opposite, taken) if p.predicate.negatable]
        texts = sorted(_texts(own, held_out=False))
        turned_texts = sorted(_texts([Phrase(opinion, p.subject, p.predicate, True) for p in turned], held_out=False))
        if not texts:
            continue
        chosen = rng.sample(texts, min(plain, len(texts))) + rng.sample(turned_texts, min(negated, len(turned_texts)))
        rows += [
            {"text": text, "aspect": opinion.aspect, "sentiment": label(opinion.positive)}
            for text in dict.fromkeys(chosen)
        ]
    return rows


def _unused(opinion: Opinion, taken: set[str]) -> list[Phrase]:
    """Held-out phrases of an opinion that none of the texts asks for, as they are or negated."""
    found = []
    for phrase in phrases(opinion.aspect, opinion.positive, True):
        both = [phrase, Phrase(phrase.opinion, phrase.subject, phrase.predicate, True)]
        if not _texts(both, held_out=True) & taken:
            found.append(phrase)
    return found


def _texts(said: Sequence[Phrase], *, held_out: bool) -> set[str]:
    # One frame of training's only asks how something is.
    frames = [frame for frame in frames_of(held_out).query if "{adn}" in frame or "{yo}" in frame]
    return {frame.format(**_fields(phrase)) for phrase in said for frame in frames}
