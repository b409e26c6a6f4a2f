"""Requests and answers."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from review_service.visible import is_visible

Label = Literal["positive", "negative"]
Mode = Literal["vector", "keyword", "hybrid"]
Sort = Literal["popular", "reviews"]

Id = Annotated[str, StringConstraints(pattern=r"^[^\s/\x00-\x1f\x7f]{1,128}$")]
"""One path segment: no spaces, no slash."""
MAX_REPORTED_LINES = 100
"""Lines that an import's answer tells of one by one."""


def _require_visible(text: str) -> str:
    if not is_visible(text):
        raise ValueError("has no character that can be seen. Send a text")
    return text


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1), AfterValidator(_require_visible)]

_YEAR_FIRST = re.compile(r"\s*\d{4}-")


def _require_iso_8601(given: Any) -> Any:
    """Numbers are no moments, whether they stand in quotes or not: `20260102` is a date in ISO 8601, and no second of
    1970."""
    if isinstance(given, datetime) or (isinstance(given, str) and _YEAR_FIRST.match(given)):
        return given
    try:
        return datetime.fromisoformat(given.strip())
    except (AttributeError, ValueError):
        raise ValueError("is no date or time in ISO 8601. Write it as '2026-01-02' or '2026-01-02T10:30:00Z'") from None


def _in_utc(moment: datetime) -> datetime:
    """A moment without a zone is taken as UTC."""
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("is before the year 1 or after the year 9999 in UTC") from None


Timestamp = Annotated[
    datetime, BeforeValidator(_require_iso_8601, json_schema_input_type=datetime), AfterValidator(_in_utc)
]


class Review(BaseModel):
    """A review as it comes in. Other fields are left out."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    review_id: Id
    restaurant_id: Id
    restaurant_name: str | None = Field(default=None, max_length=200)
    text: Text
    rating: float | None = Field(default=None, ge=1, le=5, strict=True, description="Stars.")
    created_at: Timestamp | None = Field(default=None, description="A date or a time in ISO 8601; without a zone, UTC.")


class StoredReview(Review):
    """A review with what the classifier says of it. An older version may have let in what this one would not."""

    text: str
    created_at: datetime | None = None
    sentiment: Label
    sentiment_score: float
    """Probability of that label."""


class LineError(BaseModel):
    """A review that was not taken."""

    line: int = Field(description="Which line, or which item of a list, counted from 1.")
    message: str


class Superseded(BaseModel):
    """A review that another one of the same import replaced: the last of an id wins."""

    line: int
    review_id: str
    by_line: int


class ImportResult(BaseModel):
    """What became of an import."""

    object: Literal["import"] = "import"
    received: int
    written: int = Field(description="Reviews that are stored now and were not before, or read otherwise.")
    unchanged: int = Field(description="Reviews that were stored already, word for word.")
    superseded: list[Superseded] = Field(description="The first hundred.")
    superseded_count: int
    errors: list[LineError] = Field(description="The first hundred.")
    error_count: int


class Deleted(BaseModel):
    """What became of a deletion."""

    object: Literal["review.deleted"] = "review.deleted"
    review_id: str
    deleted: bool = Field(description="false: there was no such review.")


class SearchRequest(BaseModel):
    """What to look for."""

    model_config = ConfigDict(extra="forbid")

    query: Annotated[Text, Field(max_length=1000, examples=["주차하기 편한 집"])]
    top_k: int = Field(default=10, ge=1, le=100, strict=True)
    mode: Mode = Field(default="hybrid", description="By meaning, by the words, or by both.")
    restaurant_id: Id | None = None
    sentiment: Label | None = None
    min_rating: float | None = Field(default=None, ge=1, le=5, strict=True, description="Fewest stars.")
    min_score: float | None = Field(
        default=None, strict=True, description="Lowest score of a result, on its mode's scale."
    )
    since: Timestamp | None = Field(default=None, description="Not written before.")
    until: Timestamp | None = Field(default=None, description="Written before.")


class SearchResult(BaseModel):
    """A review that was found."""

    score: float = Field(
        description="Cosine (vector), BM25 (keyword), or cosine and up to 0.5 for a rare word (hybrid)."
    )
    review: StoredReview


class SearchResponse(BaseModel):
    """What was found, best first."""

    object: Literal["list"] = "list"
    mode: Mode
    data: list[SearchResult]


class RestaurantSentiment(BaseModel):
    """How a restaurant's reviews are."""

    restaurant_id: str
    positive_count: int
    negative_count: int
    total_count: int
    positive_ratio: int = Field(description="Whole percent; the two add to 100.")
    negative_ratio: int


class Restaurant(RestaurantSentiment):
    """A restaurant of the list."""

    restaurant_name: str | None


class RestaurantList(BaseModel):
    """Restaurants, in the order that was asked for."""

    object: Literal["list"] = "list"
    data: list[Restaurant]


class PrecomputeStatus(BaseModel):
    """How far the worker is with what it makes ready."""

    object: Literal["precompute.status"] = "precompute.status"
    state: Literal["none", "running", "paused", "idle"] = Field(
        description="none: no round yet; paused: answers were left for later, since live traffic waits."
    )
    started_at: int | None = Field(description="When the latest round began, in Unix seconds.")
    waiting: int = Field(description="Answers of that round that are still to be looked at.")
    current: int = Field(description="That lay ready, and still held.")
    computed: int
    paused: int
    failed: int = Field(description="That could not be computed; the next round tries again.")


class PrecomputeStarted(BaseModel):
    """A round was asked for."""

    object: Literal["precompute.started"] = "precompute.started"


class Aspect(BaseModel):
    """One thing in which a restaurant differs from the others."""

    aspect: str
    label: str = Field(description="Its Korean name.")
    review_count: int = Field(description="The restaurant's reviews that speak of it.")
    positive_ratio: int = Field(description="Whole percent of these that are positive.")
    others_positive_ratio: int = Field(description="The same of the other restaurants' reviews.")
    z: float = Field(description="The difference in standard errors.")


class Strengths(BaseModel):
    """In what a restaurant is better, and worse, than the others; the clearest first."""

    restaurant_id: str
    strengths: list[Aspect]
    weaknesses: list[Aspect]


class Evidence(BaseModel):
    """A place in a review."""

    review_id: str
    snippet: str = Field(description="Words of that review, as they stand there.")


class RestaurantSummary(BaseModel):
    """What a restaurant's reviews say."""

    restaurant_id: str
    overall_summary: str
    positive_summary: str = Field(description="Empty where no review is positive.")
    negative_summary: str = Field(description="Empty where no review is negative.")
    evidence: list[Evidence]
    source: Literal["llm", "extracted"] = Field(
        description="extracted: the LLM gave nothing that holds, and these are counts and sentences of the reviews."
    )
    review_count: int = Field(description="How many reviews were read for it, the latest of each kind.")
