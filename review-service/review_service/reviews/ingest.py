"""Imports reviews: parses a body, and stores its reviews in batches."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from onecard import logs
from onecard.errors import BadUpstream, DeadlineExceeded, InvalidJson, InvalidRequest, TooBusy, Unavailable
from onecard.web.request_parsing import parse_json
from review_service.errors import StoreNotWritable
from review_service.model_services import RETRY_AFTER_SECONDS, InvalidModelResponse
from review_service.reviews.batches import batches
from review_service.reviews.clauses import ClauseReader
from review_service.reviews.rows import ClassifiedReview, digest_of
from review_service.reviews.store import ReviewStore
from review_service.schemas import MAX_REPORTED_LINES, ImportResult, LineError, Review, Superseded

log = logs.logger()


BOM = b"\xef\xbb\xbf"
"""Byte order mark, with which some editors on Windows start a UTF-8 file."""
_MIN_LINE_BYTES = len(b'{"review_id":"1","restaurant_id":"1","text":"1"}')
"""A shorter line cannot be a valid review."""
_REQUIRED_FIELDS = frozenset(name for name, field in Review.model_fields.items() if field.is_required())


@dataclass(frozen=True)
class ParsedImport:
    """The reviews and the errors of a body."""

    received: int
    """Number of lines or items, valid or not."""
    reviews: list[Review]
    """Valid reviews with different ids, in the order of their lines."""
    superseded: list[Superseded]
    """The first `MAX_REPORTED_LINES`."""
    superseded_count: int
    errors: list[LineError]
    """The first `MAX_REPORTED_LINES`."""
    error_count: int


def parse_items(items: Sequence[Any], max_characters: int) -> ParsedImport:
    """Validate the items of a JSON list.

    Args:
        items: The parsed list.
        max_characters: Maximum length of a review's text.

    Returns:
        Valid reviews and errors.
    """
    plausible = (isinstance(item, dict) and item.keys() >= _REQUIRED_FIELDS for item in items)
    return _parse(zip(range(1, len(items) + 1), items, plausible, strict=True), max_characters)


def parse_lines(body: bytes, max_characters: int) -> ParsedImport:
    """Parse and validate NDJSON: one object per line. Empty lines are skipped.

    Args:
        body: UTF-8, possibly with a byte order mark.
        max_characters: Maximum length of a review's text.

    Returns:
        Valid reviews and errors.
    """
    lines = enumerate(body.removeprefix(BOM).split(b"\n"), 1)
    return _parse(
        ((line, text, len(text) >= _MIN_LINE_BYTES) for line, text in lines if text and not text.isspace()),
        max_characters,
    )


def _parse(lines: Iterable[tuple[int, Any, bool]], max_characters: int) -> ParsedImport:
    """Validate lines: number, content, and whether a quick check found that it may be a review."""
    # Once enough errors are reported, lines that fail the quick check are only counted: a million of them take less
    # than a second.
    received = error_count = superseded_count = 0
    last: dict[str, tuple[int, Review]] = {}
    superseded: list[Superseded] = []
    errors: list[LineError] = []
    for line, content, plausible in lines:
        received += 1
        reporting = len(errors) < MAX_REPORTED_LINES
        if not plausible and not reporting:
            error_count += 1
            continue
        try:
            review = _validate(content, max_characters)
        except _InvalidLine as error:
            error_count += 1
            if reporting:
                errors.append(LineError(line=line, message=str(error)))
            continue
        if review.review_id in last:
            earlier, _ = last.pop(review.review_id)
            superseded_count += 1
            if len(superseded) < MAX_REPORTED_LINES:
                superseded.append(Superseded(line=earlier, review_id=review.review_id, by_line=line))
        last[review.review_id] = (line, review)
    reviews = [review for _, review in last.values()]
    return ParsedImport(received, reviews, superseded, superseded_count, errors, error_count)


class _InvalidLine(Exception):
    """A line is not a valid review. The message says why and contains nothing of the line."""


def _validate(content: Any, max_characters: int) -> Review:
    try:
        review = Review.model_validate(parse_json(content) if isinstance(content, bytes) else content)
    except InvalidJson as error:
        raise _InvalidLine(str(error.detail).replace("The body", "The line")) from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise _InvalidLine(f"'{field}': {first['msg']}." if field else f"{first['msg']}.") from None
    if len(review.text) > max_characters:
        raise _InvalidLine(f"'text' has {len(review.text):,} characters; the limit is {max_characters:,}. Shorten it.")
    return review


@dataclass(frozen=True)
class Importer:
    """Embeds, classifies and stores reviews. Reviews that are already stored with the same content are skipped."""

    store: ReviewStore
    reader: ClauseReader
    batch_size: int
    """Maximum number of reviews in one commit."""

    async def run(self, parsed: ParsedImport) -> ImportResult:
        """Store the valid reviews, batch by batch. If it fails, the batches before are stored.

        Args:
            parsed: Reviews and errors of a body.

        Returns:
            How many reviews are new or unchanged, and the errors of the body.

        Raises:
            InvalidRequest: There is no valid review.
            Unavailable: A model service is down; or other processes write all the time; or the stored vectors are of
                another model. The message says how many reviews are stored.
            TooBusy: A model service is busy. The message says how many reviews are stored.
            DeadlineExceeded: A model service does not answer in time. The message says how many reviews are stored.
            BadUpstream: A response of a model service cannot be used.
            StoreNotWritable: The disk is full or read-only. The message says how many reviews are stored.
            StoreDamaged: The table cannot be read or written.
        """
        if not parsed.reviews:
            raise InvalidRequest(_no_reviews_message(parsed))
        written = done = 0
        for batch in batches(parsed.reviews, self.batch_size, lambda review: review.text):
            try:
                written += await self._store_new(batch)
            except (Unavailable, TooBusy, DeadlineExceeded) as error:
                message = f"{error.detail} {done} of {len(parsed.reviews)} reviews are stored; send all of them again."
                raise type(error)(message, retry_after=RETRY_AFTER_SECONDS) from None
            except StoreNotWritable as error:
                raise StoreNotWritable(f"{error.detail} {done} of {len(parsed.reviews)} reviews are stored.") from None
            except InvalidModelResponse as error:
                log.warning("import failed", error=str(error))
                raise BadUpstream("A model service gave an answer that cannot be used. Tell the operator.") from None
            done += len(batch)
        unchanged = len(parsed.reviews) - written
        log.info("imported", written=written, unchanged=unchanged, errors=parsed.error_count)
        return ImportResult(
            received=parsed.received,
            written=written,
            unchanged=unchanged,
            superseded=parsed.superseded,
            superseded_count=parsed.superseded_count,
            errors=parsed.errors,
            error_count=parsed.error_count,
        )

    async def _store_new(self, batch: Sequence[Review]) -> int:
        """Store the reviews of a batch that are new or changed, and return their number."""
        stored = await self.store.digests([review.review_id for review in batch])
        digests = [digest_of(review) for review in batch]
        changed = [
            (review, digest)
            for review, digest in zip(batch, digests, strict=True)
            if stored.get(review.review_id) != digest
        ]
        if changed:
            split = await asyncio.to_thread(
                lambda: [self.reader.split(review.text, review.restaurant_name) for review, _ in changed]
            )
            judged = await self.reader.judge(split)
            classified = [
                ClassifiedReview(
                    review=review,
                    digest=digest,
                    prediction=prediction,
                    terms=item.terms,
                    terms_version=self.reader.analyzer.version,
                    clauses=clauses,
                    clauses_version=self.reader.version,
                )
                for (review, digest), item, prediction, clauses in zip(
                    changed, split, judged.predictions, judged.clauses, strict=True
                )
            ]
            await self.store.upsert(classified, judged.embedded)
        return len(changed)


def _no_reviews_message(parsed: ParsedImport) -> str:
    if not parsed.errors:
        return "There is no review. Send one, a list, or one a line."
    first = parsed.errors[0]
    others = f" So are {parsed.error_count - 1} others." if parsed.error_count > 1 else ""
    return f"Review {first.line} is wrong: {first.message}{others}"
