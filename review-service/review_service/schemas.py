"""Requests and responses."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from onecard.text import composed, is_visible

Label = Literal["positive", "negative"]
Mode = Literal["vector", "keyword", "hybrid"]
Sort = Literal["popular", "reviews"]

Id = Annotated[str, StringConstraints(pattern=r"^[^\s/\x00-\x1f\x7f]{1,128}$")]
"""An id that fits into one segment of a path: no spaces, no slash."""
DEFAULT_MIN_SCORE = 0.15
"""Minimum score of a result, unless the request has another."""
MAX_REPORTED_LINES = 100
"""Maximum number of lines that the result of an import lists, for errors and for superseded reviews each."""


def _require_visible(text: str) -> str:
    if not is_visible(text):
        raise ValueError("has no character that can be seen. Send a text")
    return text


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1), AfterValidator(_require_visible)]

_YEAR_FIRST = re.compile(r"\s*\d{4}-")


def _require_iso_8601(value: Any) -> Any:
    """Accept only dates and times in ISO 8601."""
    # pydantic would take a number, also as a string, for Unix seconds, so that `20260102` became a time in 1970.
    if isinstance(value, datetime) or (isinstance(value, str) and _YEAR_FIRST.match(value)):
        return value
    try:
        return datetime.fromisoformat(value.strip())
    except (AttributeError, ValueError):
        raise ValueError("is no date or time in ISO 8601. Write it as '2026-01-02' or '2026-01-02T10:30:00Z'") from None


def _in_utc(value: datetime) -> datetime:
    """Convert to UTC. A time without a zone is taken as UTC."""
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        raise ValueError("is before the year 1 or after the year 9999 in UTC") from None


Timestamp = Annotated[
    datetime, BeforeValidator(_require_iso_8601, json_schema_input_type=datetime), AfterValidator(_in_utc)
]


class Review(BaseModel):
    """A review as it is imported. Unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    review_id: Id
    restaurant_id: Id
    restaurant_name: str | None = Field(default=None, max_length=200)
    text: Text
    rating: float | None = Field(default=None, ge=1, le=5, strict=True, description="Stars.")
    created_at: Timestamp | None = Field(default=None, description="A date or a time in ISO 8601; without a zone, UTC.")


class StoredReview(Review):
    """A review with the classifier's result."""

    # Less strict than `Review`: an older version may have stored values that an import rejects today.
    text: str
    created_at: datetime | None = None
    sentiment: Label
    sentiment_score: float
    """Probability of that label."""


class LineError(BaseModel):
    """A line or item that is not a valid review."""

    line: int = Field(description="Number of the line, or of the item of a list, from 1.")
    message: str


class Superseded(BaseModel):
    """A review that was not stored because a later one in the same import has the same id."""

    line: int
    review_id: str
    by_line: int


class ImportResult(BaseModel):
    """The result of an import."""

    object: Literal["import"] = "import"
    received: int
    written: int = Field(description="Number of reviews that are new or changed.")
    unchanged: int = Field(
        description="Number of reviews that were stored before with the same content, maybe by an earlier attempt."
    )
    superseded: list[Superseded] = Field(description="The first hundred.")
    superseded_count: int
    errors: list[LineError] = Field(description="The first hundred.")
    error_count: int


class Deleted(BaseModel):
    """The result of a deletion."""

    object: Literal["review.deleted"] = "review.deleted"
    review_id: str
    deleted: bool = Field(
        description="false if there was no such review, or an earlier attempt of the gateway has removed it."
    )


class SearchRequest(BaseModel):
    """A search for reviews."""

    model_config = ConfigDict(extra="forbid")

    query: Annotated[Text, Field(max_length=1000, examples=["주차하기 편한 집"]), AfterValidator(composed)]
    top_k: int = Field(default=10, ge=1, le=100, strict=True)
    mode: Mode = Field(default="hybrid", description="Search by meaning (vector), by words (keyword), or by both.")
    restaurant_id: Id | None = None
    sentiment: Label | None = None
    min_rating: float | None = Field(default=None, ge=1, le=5, strict=True, description="Minimum number of stars.")
    min_score: float = Field(
        default=DEFAULT_MIN_SCORE,
        ge=0,
        le=1,
        strict=True,
        description="Minimum score of a result. The default keeps out what has nothing to do with the query.",
    )
    since: Timestamp | None = Field(default=None, description="Only reviews written at this time or later.")
    until: Timestamp | None = Field(default=None, description="Only reviews written before this time.")


class SearchResult(BaseModel):
    """A review that matches a search."""

    score: float = Field(ge=0, le=1, description="From 0, nothing in common, to 1; in all modes.")
    review: StoredReview


class SearchResponse(BaseModel):
    """The results of a search, best first."""

    object: Literal["list"] = "list"
    mode: Mode
    degraded: bool = Field(description="Whether a hybrid search had to do without the query's vector.")
    corrected_query: str | None = Field(description="How the query was read, if words were taken as misspelt.")
    data: list[SearchResult]


class ExplainRequest(BaseModel):
    """Which search to explain."""

    model_config = ConfigDict(extra="forbid")

    query: Annotated[Text, Field(max_length=1000, examples=["주차하기 편한 집"])]
    review_id: Id | None = Field(default=None, description="Explain the score of this review as well.")


class ExplainedTerm(BaseModel):
    """A term that the query is looked for by."""

    term: str
    word: str = Field(description="The word of the query that it comes from.")
    reason: Literal["word", "part", "compound", "spelling", "initials", "keyboard"] = Field(
        description="word: a morpheme; part, compound: of a compound; the others: the word was read as this one."
    )
    synonyms: list[str] = Field(description="Terms that are looked for as well.")
    review_count: int = Field(description="Number of reviews that have the term, at the latest count.")
    weight: float = Field(description="BM25 score that the term gives a review of average length.")


class TextTerm(BaseModel):
    """A term of a stored text."""

    term: str
    of: str = Field(description="The part of the text that it stands for.")
    tag: str = Field(description="Kiwi's part of speech; part or compound for what comes of a compound.")


class ExplainedReview(BaseModel):
    """Why a review has its score in a hybrid search."""

    review_id: str
    score: float
    words: float = Field(description="Score of the words, from 0 to 1.")
    meaning: float | None = Field(description="Score of the meaning, from 0 to 1; null without the embedding service.")
    matched: dict[str, float] = Field(description="What each term that the review has adds to the words' score.")
    opposites: list[str] = Field(
        description="Terms and pairs of antonyms in which query and review take different sides; they lower the score."
    )
    name_terms: list[TextTerm] = Field(description="How the restaurant's name was taken apart.")
    text_terms: list[TextTerm] = Field(description="How the review was taken apart.")
    vector_engine: str | None = Field(
        description="What computed the review's vector: program, version and number format. Null if an older version "
        "stored it."
    )


class Explanation(BaseModel):
    """How a query was taken apart, and why a review has its score."""

    object: Literal["search.explanation"] = "search.explanation"
    read_as: str = Field(description="The query without quotation marks, with misspelt words replaced.")
    phrases: list[str] = Field(description="What each result must have word for word.")
    terms: list[ExplainedTerm]
    review: ExplainedReview | None


class RestaurantSentiment(BaseModel):
    """How many of a restaurant's reviews are positive, neutral and negative."""

    restaurant_id: str
    positive_count: int
    neutral_count: int = Field(description="0 unless the operator has set a neutral band.")
    negative_count: int
    total_count: int
    positive_ratio: int = Field(description="Whole percent; the three ratios sum to 100.")
    neutral_ratio: int
    negative_ratio: int


class Restaurant(RestaurantSentiment):
    """A restaurant in a list of restaurants."""

    restaurant_name: str | None


class RestaurantList(BaseModel):
    """Restaurants, in the requested order."""

    object: Literal["list"] = "list"
    data: list[Restaurant]


class PrecomputeStatus(BaseModel):
    """Progress of the worker in the latest round of precomputing."""

    object: Literal["precompute.status"] = "precompute.status"
    state: Literal["none", "running", "paused", "idle"] = Field(
        description="none: no round yet; paused: responses were skipped because users' requests were queued."
    )
    started_at: int | None = Field(description="Start of the latest round as Unix time in seconds.")
    waiting: int = Field(description="Number of responses that the round has not reached yet.")
    current: int = Field(description="Number of responses that were cached and up to date.")
    computed: int
    paused: int
    failed: int = Field(description="Number of responses that could not be computed; the next round retries them.")


class PrecomputeStarted(BaseModel):
    """A round of precomputing was queued."""

    object: Literal["precompute.started"] = "precompute.started"


class Aspect(BaseModel):
    """An aspect in which a restaurant differs from the others."""

    aspect: str
    label: str = Field(description="Korean name of the aspect.")
    review_count: int = Field(
        description="Number of the reviews' opinions on it: a review may praise and blame an aspect."
    )
    positive_ratio: int = Field(description="Whole percent of these opinions that are positive.")
    others_positive_ratio: int = Field(description="The same for the other restaurants' reviews.")
    z: float = Field(description="The difference of the two ratios in standard errors.")


class Strengths(BaseModel):
    """The aspects in which a restaurant is better or worse than the others, largest difference first."""

    restaurant_id: str
    strengths: list[Aspect]
    weaknesses: list[Aspect]


class Evidence(BaseModel):
    """A quotation from a review."""

    review_id: str
    snippet: str = Field(description="A verbatim part of the review's text.")


class RestaurantSummary(BaseModel):
    """A summary of a restaurant's reviews."""

    restaurant_id: str
    overall_summary: str
    positive_summary: str = Field(description="Empty if no review is positive.")
    negative_summary: str = Field(description="Empty if no review is negative.")
    evidence: list[Evidence]
    source: Literal["llm", "extracted"] = Field(
        description="extracted: no answer of the LLM was valid, so the summary has counts and sentences of reviews."
    )
    review_count: int = Field(description="Number of reviews in the prompt: the latest positive and negative ones.")
