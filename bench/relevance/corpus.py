"""The corpora: reviews, and queries with the reviews that are right for each."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.paths import REAL_DATA, ROOT, SAMPLE_REVIEWS
from bench.texts import real_rows
from review_service.schemas import Review
from standins.relevance import DISH_FRAMES, HELD_OUT_DISHES, RelevanceJudgements, with_dish_names

STATEMENTS = REAL_DATA / "statements.jsonl"
SEARCH_CASES = ROOT / "data" / "search_cases.json"
HELD_OUT = ROOT / "data" / "heldout_queries.jsonl"
NOISE = 6000
"""Number of real reviews among which the right ones are looked for."""

ASKED_RESTAURANTS = ("rest-04", "rest-09", "rest-15")
"""Restaurants of the sample for 짬뽕, 돈가스 and 칼국수."""

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class JudgedQuery:
    """A query and the reviews that are right for it."""

    text: str
    right: frozenset[str]
    """Ids of the reviews that say what is asked for."""
    opposite: frozenset[str] = frozenset()
    """Ids of reviews that say the opposite."""


@dataclass(frozen=True)
class Corpus:
    """Reviews and queries."""

    reviews: Sequence[Review]
    queries: Sequence[JudgedQuery]


def rows_of(path: Path) -> Rows:
    """Read a file with one JSON object per line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _review(review_id: str, text: str) -> Review:
    return Review(review_id=review_id, restaurant_id="noise", text=text)


def real() -> Corpus:
    """Load the real corpus: each group's premise is right for the query that follows from it, amid noise."""
    groups = rows_of(STATEMENTS)
    kinds = ("premise", "contradiction", "neutral")
    said = [_review(f"{kind}-{group['id']}", group[kind]) for kind in kinds for group in groups]
    noise = [_review(row["review_id"], row["text"]) for row in real_rows()[:NOISE]]
    right, opposite = ([frozenset({f"{kind}-{group['id']}"}) for group in groups] for kind in kinds[:2])
    queries = map(JudgedQuery, [group["entailment"] for group in groups], right, opposite)
    return Corpus([*said, *noise], list(queries))


def sample() -> Corpus:
    """Load the sample reviews with the held-out queries, with and without a dish."""
    judgements, rows = RelevanceJudgements(), rows_of(HELD_OUT)
    asked = (*rows, *with_dish_names(rows, HELD_OUT_DISHES, judgements, DISH_FRAMES))
    return Corpus(sample_reviews(), [JudgedQuery(str(row["text"]), judgements.by_opinion(row)) for row in asked])


def sample_reviews() -> list[Review]:
    """Load the sample reviews."""
    return [
        Review.model_validate({name: row.get(name) for name in Review.model_fields}) for row in rows_of(SAMPLE_REVIEWS)
    ]


def hard() -> Corpus:
    """Load the hard queries; restaurants of the sample whose dishes are asked for are left out of its reviews."""
    cases = json.loads(SEARCH_CASES.read_text(encoding="utf-8"))
    reviews = [Review.model_validate(row) for row in cases["reviews"]]
    others = [review for review in sample_reviews() if review.restaurant_id not in ASKED_RESTAURANTS]
    queries = [
        JudgedQuery(case["query"], frozenset(case["wanted"]), frozenset(case["unwanted"])) for case in cases["hard"]
    ]
    return Corpus([*reviews, *others], queries)


def nonsense() -> list[str]:
    """Load the queries that should find nothing."""
    queries: list[str] = json.loads(SEARCH_CASES.read_text(encoding="utf-8"))["nonsense"]
    return queries
