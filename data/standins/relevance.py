"""What search is measured with: queries about dishes, and what every sample review says.

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
    make_review,
    restaurant_opinions,
    sample_reviews,
)
from standins.grammar import Opinion
from standins.restaurants import RESTAURANTS

HELD_OUT_DISHES = tuple(dish for place in RESTAURANTS[::2] for dish in place.dishes)
"""Those of the first restaurant, the third, and so on."""
PARTICLES = ("", "이", "가", "은", "는", "도")
DISH_FRAMES = ("{dish} {query}",)


class RelevanceJudgements:
    """Which sample reviews are right for a query: their ids. A query that has a `dish` is only answered by reviews that
    name it."""

    def __init__(self) -> None:
        self._opinions = sample_opinions()
        self._sentiments = {str(row["review_id"]): row["sentiment"] for row in sample_reviews()}
        self._words = {str(row["review_id"]): frozenset(str(row["text"]).split()) for row in sample_reviews()}

    def by_opinion(self, query: Row) -> frozenset[str]:
        """Reviews that say what is asked for."""
        asked = Opinion(str(query["aspect"]), query["sentiment"] == "positive")
        return self._with_dish(query, (review_id for review_id, said in self._opinions.items() if asked in said))

    def by_label(self, query: Row) -> frozenset[str]:
        """Reviews that speak of the aspect, and are labelled with the sentiment as a whole."""
        alike = (review_id for review_id, sentiment in self._sentiments.items() if sentiment == query["sentiment"])
        return self._with_dish(
            query,
            (one for one in alike if any(opinion.aspect == query["aspect"] for opinion in self._opinions[one])),
        )

    def naming_dish(self, dish: str) -> frozenset[str]:
        """Reviews that name a dish as a word: «순대국» does not name «순대»."""
        forms = {dish + particle for particle in PARTICLES}
        return frozenset(review_id for review_id, words in self._words.items() if not forms.isdisjoint(words))

    def _with_dish(self, query: Row, review_ids: Iterable[str]) -> frozenset[str]:
        found = frozenset(review_ids)
        return found & self.naming_dish(str(query["dish"])) if "dish" in query else found


def with_dish_names(
    queries: Sequence[Row], dishes: Sequence[str], answers: RelevanceJudgements, frames: Sequence[str] = DISH_FRAMES
) -> list[Row]:
    """The queries, each with the name of a dish, in one frame after the other: «갈비찜 직원이 친절한 곳».

    The dish is drawn from those about which a review is right by both judgements. A query for which there is none is
    left out.
    """
    rng = random.Random(SEED + 4)
    naming = {dish: answers.naming_dish(dish) for dish in dishes}
    made: list[Row] = []
    for query in queries:
        right = answers.by_opinion(query) & answers.by_label(query)
        answered = [dish for dish in dishes if right & naming[dish]]
        if answered:
            dish = rng.choice(answered)
            text = frames[len(made) % len(frames)].format(dish=dish, query=query["text"])
            made.append({**query, "text": text, "dish": dish})
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
