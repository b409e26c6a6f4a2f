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
from standins.grammar import HELD_OUT_FRAMES, TRAIN_FRAMES, Opinion, Phrase, _fields, every_opinion, phrases
from standins.restaurants import RESTAURANTS

HELD_OUT_DISHES = tuple(dish for place in RESTAURANTS[::2] for dish in place.dishes)
"""Those of the first restaurant, the third, and so on: no tuning query names one."""
TUNING_DISHES = tuple(dish for place in RESTAURANTS[1::2] for dish in place.dishes)
PARTICLES = ("", "이", "가", "은", "는", "도")
TERSE_FRAMES = tuple(frame for frame in TRAIN_FRAMES.query if "{adn}" in frame or "{yo}" in frame)
"""Training's, but for one that only asks how something is."""
CHATTY_FRAMES = (
    "친구랑 갈 건데 {i} {adn} 데로 하나 골라 줄래?",
    "이번 주말에 부모님 모시고 갈 만한 {i} {adn} 식당 아시는 분 계세요?",
    "회식 장소를 알아보고 있는데 {i} {adn} 레스토랑이면 좋겠어요",
    "배고픈데 {i} {adn} 데 없을까",
    "혹시 이 동네에서 {i} {adn} 음식점을 알고 있으면 말해 주세요",
    "{i} {adn} 데가 어디인지 궁금합니다",
    "{n} {adn} 편이라는 후기가 많은 식당 이름 좀",
    "여자친구 생일이라서 {subject} {adn} 데를 예약하려고 해요",
)
"""How people ask who talk: neither training's frames nor held out, and of all lengths."""
DISH_FRAMES = ("{dish} {query}",)
CHATTY_DISH_FRAMES = (
    "{dish} 먹으러 갈 건데 {query}",
    "{query}, 메뉴는 {dish} 생각하고 있어요",
    "오랜만에 {dish} 먹고 싶다. {query}",
    "{query} {dish}",
)


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


def tuning_queries(
    held_out: Sequence[Row], frames: Sequence[str] = TERSE_FRAMES, plain: int = 20, negated: int = 3
) -> list[Row]:
    """Queries like the held-out ones, of phrases that these do not have, and in other frames.

    Neither the reviews nor the encoder's training have the phrases, as with the held-out queries. Opinions of which the
    held-out queries have every phrase are left out.

    Args:
        held_out: rows of `heldout_queries.jsonl`.
        frames: what the phrases are put in.
        plain: at most so many for an opinion.
        negated: at most so many more that negate its opposite; the held-out queries have about one in eight.
    """
    rng = random.Random(SEED + 3)
    taken = {str(row["text"]) for row in held_out}
    rows: list[Row] = []
    for opinion in every_opinion():
        opposite = opinion._replace(positive=not opinion.positive)
        own, turned = _unused(opinion, taken), [p for p in _unused(opposite, taken) if p.predicate.negatable]
        texts = sorted(_texts(own, frames))
        turned_texts = sorted(_texts([Phrase(opinion, p.subject, p.predicate, True) for p in turned], frames))
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
        if not _texts(both, HELD_OUT_FRAMES.query) & taken:
            found.append(phrase)
    return found


def _texts(said: Sequence[Phrase], frames: Sequence[str]) -> set[str]:
    return {frame.format(**_fields(phrase)) for phrase in said for frame in frames}
