"""Reviews in: what was sent becomes rows, batch by batch."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from onecard import logs
from onecard.errors import BadUpstream, DeadlineExceeded, InvalidJson, InvalidRequest, TooBusy, Unavailable
from onecard.web.request_parsing import parse_json
from review_service.errors import StoreNotWritable
from review_service.model_services import RETRY_AFTER_SECONDS, InvalidModelResponse, ModelServices
from review_service.reviews.rows import ClassifiedReview, digest_of
from review_service.reviews.store import ReviewStore
from review_service.schemas import MAX_REPORTED_LINES, ImportResult, LineError, Review, Superseded

MAX_BATCH_BYTES = 1_000_000
"""Most bytes of text that go to a service in one request; its own limit is MAX_BODY_MB."""

log = logs.logger()


BOM = b"\xef\xbb\xbf"
"""Some editors on Windows begin a file of UTF-8 with it."""
_MIN_LINE_BYTES = len(b'{"review_id":"1","restaurant_id":"1","text":"1"}')
"""Bytes of a line that may be a review."""
_REQUIRED_FIELDS = frozenset(name for name, field in Review.model_fields.items() if field.is_required())


@dataclass(frozen=True)
class ParsedImport:
    """What was sent, line by line."""

    received: int
    reviews: list[Review]
    """Of different ids, in the order of their lines."""
    superseded: list[Superseded]
    """The first `MOST_TOLD`."""
    superseded_count: int
    errors: list[LineError]
    """The first `MOST_TOLD`."""
    error_count: int


def parse_items(items: Sequence[Any], most_characters: int) -> ParsedImport:
    """The reviews of a JSON list."""
    hopeful = (isinstance(item, dict) and item.keys() >= _REQUIRED_FIELDS for item in items)
    return _parse(zip(range(1, len(items) + 1), items, hopeful, strict=True), most_characters)


def parse_lines(body: bytes, most_characters: int) -> ParsedImport:
    """The reviews of NDJSON: an object a line, empty lines between them."""
    lines = enumerate(body.removeprefix(BOM).split(b"\n"), 1)
    return _parse(
        ((line, text, len(text) >= _MIN_LINE_BYTES) for line, text in lines if text and not text.isspace()),
        most_characters,
    )


def _parse(lines: Iterable[tuple[int, Any, bool]], most_characters: int) -> ParsedImport:
    """Of lines by number: what was given, and whether it may be a review; why not is told of the first ones alone, so
    that a million wrong ones are counted in less than a second."""
    received = error_count = superseded_count = 0
    last: dict[str, tuple[int, Review]] = {}
    superseded: list[Superseded] = []
    errors: list[LineError] = []
    for line, given, hopeful in lines:
        received += 1
        telling = len(errors) < MAX_REPORTED_LINES
        if not hopeful and not telling:
            error_count += 1
            continue
        try:
            review = _validate(given, most_characters)
        except _InvalidLine as wrong:
            error_count += 1
            if telling:
                errors.append(LineError(line=line, message=str(wrong)))
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
    """A line that is no review, and why: nothing of its text."""


def _validate(given: Any, most_characters: int) -> Review:
    try:
        review = Review.model_validate(parse_json(given) if isinstance(given, bytes) else given)
    except InvalidJson as error:
        raise _InvalidLine(str(error.detail).replace("The body", "The line")) from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise _InvalidLine(f"'{field}': {first['msg']}." if field else f"{first['msg']}.") from None
    if len(review.text) > most_characters:
        raise _InvalidLine(f"'text' has {len(review.text):,} characters; the limit is {most_characters:,}. Shorten it.")
    return review


def batches(reviews: Sequence[Review], most: int, most_bytes: int = MAX_BATCH_BYTES) -> Iterator[list[Review]]:
    """The reviews in runs of at most so many and, but for a single one that is longer, so many bytes of text."""
    batch: list[Review] = []
    size = 0
    for review in reviews:
        added = len(review.text.encode())
        if batch and (len(batch) == most or size + added > most_bytes):
            yield batch
            batch, size = [], 0
        batch.append(review)
        size += added
    if batch:
        yield batch


@dataclass(frozen=True)
class Importer:
    """Embeds, classifies and stores reviews. What is stored already, word for word, costs nothing again."""

    store: ReviewStore
    models: ModelServices
    batch_size: int
    """Most reviews in one commit."""

    async def run(self, parsed: ParsedImport) -> ImportResult:
        """Store the good lines.

        Raises:
            InvalidRequest: there is none.
            Unavailable, TooBusy, DeadlineExceeded: a model service stays away, or full, or is late; whole batches are
                stored, and the message says how many reviews.
            BadUpstream: a model service answers with something else than results.
            StoreDamaged, StoreRefuses: the table cannot be read or written; what is stored is told as well.
        """
        if not parsed.reviews:
            raise InvalidRequest(_no_reviews_message(parsed))
        written = done = 0
        for batch in batches(parsed.reviews, self.batch_size):
            try:
                written += await self._store_new(batch)
            except (Unavailable, TooBusy, DeadlineExceeded) as error:
                told = f"{error.detail} {done} of {len(parsed.reviews)} reviews are stored; send all of them again."
                raise type(error)(told, retry_after=RETRY_AFTER_SECONDS) from None
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
        """How many of the batch are new, or read otherwise than before; they are stored."""
        known = await self.store.digests([review.review_id for review in batch])
        digests = [digest_of(review) for review in batch]
        fresh = [
            (review, digest)
            for review, digest in zip(batch, digests, strict=True)
            if known.get(review.review_id) != digest
        ]
        if fresh:
            texts = [review.text for review, _ in fresh]
            embedded, opinions = await asyncio.gather(
                self.models.embed(texts, "bulk"), self.models.classify(texts, "bulk")
            )
            judged = [ClassifiedReview(*one, opinion) for one, opinion in zip(fresh, opinions, strict=True)]
            await self.store.upsert(judged, embedded.vectors, embedded.model)
        return len(fresh)


def _no_reviews_message(parsed: ParsedImport) -> str:
    if not parsed.errors:
        return "There is no review. Send one, a list, or one a line."
    first = parsed.errors[0]
    others = f" So are {parsed.error_count - 1} others." if parsed.error_count > 1 else ""
    return f"Review {first.line} is wrong: {first.message}{others}"
