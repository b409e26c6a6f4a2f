"""Validates the LLM's answer to a summary's prompt, and makes a summary without it. Pure."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ValidationError

from onecard.text import is_visible
from review_service.insight.prompts import (
    LINE_PATTERN,
    MAX_EVIDENCE,
    MAX_SUMMARY_CHARACTERS,
    by_prompt_id,
    quotation,
    shortened,
)
from review_service.schemas import Evidence, StoredReview

_LINE_REGEX = re.compile(LINE_PATTERN)


class InvalidSummary(Exception):
    """The LLM's answer is not a valid summary."""


class _LlmSummary(BaseModel):
    """The answer in the shape of the requested schema."""

    overall_summary: str
    positive_summary: str
    negative_summary: str
    evidence: list[Evidence]


@dataclass(frozen=True)
class ValidatedSummary:
    """A summary that passed validation."""

    overall: str
    positive: str
    negative: str
    evidence: list[Evidence]
    """Verbatim quotations from the reviews in the prompt."""


def validate(text: str, reviews: Sequence[StoredReview]) -> ValidatedSummary:
    """Validate the LLM's answer.

    Args:
        text: The answer.
        reviews: The reviews in the prompt.

    Returns:
        The summary, whose quotations name the reviews by their own ids. Quotations that are not in the reviews, and
        duplicates, are removed.

    Raises:
        InvalidSummary: The answer has another shape, a summary has no word or is too long, or no quotation is left.
    """
    try:
        written = _LlmSummary.model_validate_json(text)
    except ValidationError:
        raise InvalidSummary("another shape") from None
    by_id = by_prompt_id(reviews)
    quotes = dict.fromkeys(
        (by_id[item.review_id].review_id, quotation(by_id[item.review_id].text, item.snippet))
        for item in written.evidence
        if item.review_id in by_id
    )
    evidence = [Evidence(review_id=review_id, snippet=snippet) for review_id, snippet in quotes if snippet.strip()][
        :MAX_EVIDENCE
    ]
    if not evidence:
        raise InvalidSummary("no evidence that is there")
    summary = ValidatedSummary(
        written.overall_summary.strip(), written.positive_summary.strip(), written.negative_summary.strip(), evidence
    )
    kinds = {review.sentiment for review in reviews}
    by_kind = {"positive": summary.positive, "negative": summary.negative}
    if not all(map(_is_summary_line, (summary.overall, *(by_kind[kind] for kind in kinds)))):
        raise InvalidSummary("no line of text, or a long one")
    return summary


def _is_summary_line(text: str) -> bool:
    """Whether a summary matches the schema. Checked again, because not every engine enforces (all of) a schema."""
    return (
        len(text) <= MAX_SUMMARY_CHARACTERS
        and _LINE_REGEX.fullmatch(text) is not None
        and any(char.isalpha() and is_visible(char) for char in text)  # «1. 2.» says nothing.
        and not any(unicodedata.category(char) in ("Cc", "Zl", "Zp") for char in text)
    )


@dataclass(frozen=True)
class Opinion:
    """A clause of a review."""

    review_id: str
    text: str
    """Verbatim."""
    score: float
    """Probability of its sentiment."""


def extractive_summary(overall: str, positive: Sequence[Opinion], negative: Sequence[Opinion]) -> ValidatedSummary:
    """Build a summary without the LLM: counts, and the beginning of the clause of each kind with the highest score.

    Args:
        overall: What the counts say.
        positive: Positive clauses; may be empty.
        negative: Negative clauses; may be empty.

    Returns:
        The summary. A kind without clauses has an empty summary.
    """
    praise, blame = (max(kind, key=lambda opinion: opinion.score, default=None) for kind in (positive, negative))
    evidence = [
        Evidence(review_id=best.review_id, snippet=quotation(best.text, shortened(best.text)))
        for best in (praise, blame)
        if best
    ]
    positive_line, negative_line = (shortened(best.text) if best else "" for best in (praise, blame))
    return ValidatedSummary(overall, positive_line, negative_line, evidence)
