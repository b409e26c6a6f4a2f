"""Takes reviews apart into clauses, and finds the sentiment and the aspects of each."""

import asyncio
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from onecard.errors import Unavailable
from onecard.text import composed, is_visible
from review_service.model_services import RETRY_AFTER_SECONDS, EmbeddedTexts, ModelServices, Prediction
from review_service.reviews.aspects import AspectCatalog, DescriptionVectors
from review_service.reviews.batches import batches
from review_service.schemas import Label
from review_service.words.analyzer import MorphemeAnalyzer
from review_service.words.clauses import Span, split_clauses
from review_service.words.terms import Term

CLAUSES_VERSION = 1
"""Incremented when the same text is split otherwise."""
_Vector = tuple[str, npt.NDArray[np.float32]]
"""A vector with the name of its model."""


@dataclass(frozen=True)
class Clause:
    """A clause of a review."""

    start: int
    """Offset in the review's text."""
    end: int
    sentiment: Label
    sentiment_score: float
    """Probability of the sentiment."""
    aspects: list[str]
    """Keys of the aspects that it speaks of."""


@dataclass(frozen=True)
class SplitReview:
    """A review that is taken apart, before the models have seen it."""

    text: str
    terms: str
    """Value of the column of terms."""
    clauses: list[str]
    """Text of each clause, without blanks around it."""
    spans: list[Span]
    """The clauses in the text."""
    clause_terms: list[list[Term]]
    named: list[list[str]]
    """Keys of the aspects that the words of each clause name."""


@dataclass(frozen=True)
class JudgedReviews:
    """What the models say of some reviews."""

    embedded: EmbeddedTexts
    """Vectors of the whole reviews."""
    predictions: list[Prediction]
    """Of the whole reviews."""
    clauses: list[list[Clause]]


def version_of(analyzer: MorphemeAnalyzer, catalog: AspectCatalog) -> str:
    """Build a version that differs if a text may get other clauses or aspects."""
    return f"{CLAUSES_VERSION}-{analyzer.version}-{catalog.version}"


class ClauseReader:
    """Splits reviews, and has their clauses embedded and classified, in the bulk lane."""

    def __init__(
        self, models: ModelServices, analyzer: MorphemeAnalyzer, catalog: AspectCatalog, batch_size: int
    ) -> None:
        """`batch_size` is the maximum number of texts in one request to a model service."""
        self.catalog = catalog
        self.analyzer = analyzer
        self._models = models
        self._batch_size = batch_size
        self._descriptions: dict[str, DescriptionVectors] = {}
        self._lock = asyncio.Lock()
        self.version = version_of(analyzer, catalog)

    def split(self, text: str, name: str | None = None) -> SplitReview:
        """Take a review apart. It blocks for about 1 ms.

        Args:
            text: The review.
            name: Name of its restaurant.

        Returns:
            Its clauses and terms.
        """
        normal = composed(text)
        morphemes = self.analyzer.morphemes(normal)
        terms = self.analyzer.terms_of(morphemes)
        # Older versions stored texts that models refuse.
        spans = split_clauses(normal, morphemes) if is_visible(normal) else []
        clause_terms = [[term for term in terms if span.start <= term.start < span.end] for span in spans]
        name_terms = self.analyzer.terms(name) if name else []
        return SplitReview(
            text=text,
            terms=" ".join(term.text for term in (*name_terms, *terms)),
            clauses=[text] if len(spans) == 1 else [normal[span.start : span.end].strip() for span in spans],
            spans=_in_original(text, normal, spans),
            clause_terms=clause_terms,
            named=[self.catalog.named(words) for words in clause_terms],
        )

    async def judge(self, reviews: Sequence[SplitReview]) -> JudgedReviews:
        """Embed and classify reviews and their clauses.

        Args:
            reviews: At most `batch_size` reviews.

        Returns:
            What the models say of them.

        Raises:
            Unavailable: A model service is down.
            TooBusy: A model service is busy.
            DeadlineExceeded: A model service does not answer in time.
            InvalidModelResponse: A response cannot be used.
        """
        texts = [review.text for review in reviews]
        whole = frozenset(texts)
        embedded, predictions, vectors, judged = await asyncio.gather(
            self._models.embed(texts, "bulk", "document"),
            self._models.classify(texts, "bulk"),
            self._embed([text for text in _without_aspects(reviews) if text not in whole]),
            self._classify([text for text in _parts(reviews) if text not in whole]),
        )
        vectors |= dict(zip(texts, ((embedded.model, row) for row in embedded.vectors), strict=True))
        judged |= dict(zip(texts, predictions, strict=True))
        return JudgedReviews(embedded, predictions, [await self._clauses(item, vectors, judged) for item in reviews])

    async def judge_clauses(
        self, reviews: Sequence[SplitReview], predictions: Sequence[Prediction]
    ) -> list[list[Clause]]:
        """Embed and classify the clauses of reviews that are stored already.

        Args:
            reviews: Any number of reviews.
            predictions: What the classifier said of each of them as a whole.

        Returns:
            The clauses of each review.

        Raises:
            Unavailable: A model service is down.
            TooBusy: A model service is busy.
            DeadlineExceeded: A model service does not answer in time.
            InvalidModelResponse: A response cannot be used.
        """
        vectors, judged = await asyncio.gather(self._embed(_without_aspects(reviews)), self._classify(_parts(reviews)))
        judged |= {review.text: prediction for review, prediction in zip(reviews, predictions, strict=True)}
        return [await self._clauses(review, vectors, judged) for review in reviews]

    async def _clauses(
        self, review: SplitReview, vectors: Mapping[str, _Vector], judged: Mapping[str, Prediction]
    ) -> list[Clause]:
        clauses: list[Clause] = []
        for text, span, terms, named in zip(
            review.clauses, review.spans, review.clause_terms, review.named, strict=True
        ):
            aspects = named
            if not aspects:
                model, vector = vectors[text]
                aspects = self.catalog.nearest((await self._described(model)).similarities(vector), terms)
            clauses.append(Clause(span.start, span.end, judged[text].label, judged[text].score, aspects))
        return clauses

    async def _embed(self, texts: Iterable[str]) -> dict[str, _Vector]:
        """Vectors by text, each with the name of its model."""
        found: dict[str, _Vector] = {}
        for batch in _batches(texts, self._batch_size):
            embedded = await self._models.embed(batch, "bulk", "document")
            found |= {text: (embedded.model, row) for text, row in zip(batch, embedded.vectors, strict=True)}
        return found

    async def _classify(self, texts: Iterable[str]) -> dict[str, Prediction]:
        found: dict[str, Prediction] = {}
        for batch in _batches(texts, self._batch_size):
            found |= zip(batch, await self._models.classify(batch, "bulk"), strict=True)
        return found

    async def _described(self, model: str) -> DescriptionVectors:
        """The vectors of the aspects' descriptions by one model, which are computed when it is first needed."""
        async with self._lock:
            if model not in self._descriptions:
                found = await self._embed(self.catalog.descriptions)
                if {name for name, _ in found.values()} != {model}:
                    raise Unavailable(
                        "The embedding service is being updated. Try again.", retry_after=RETRY_AFTER_SECONDS
                    )
                vectors = np.stack([found[text][1] for text in self.catalog.descriptions])
                self._descriptions = {model: DescriptionVectors(self.catalog, vectors)}
            return self._descriptions[model]


def _without_aspects(reviews: Iterable[SplitReview]) -> list[str]:
    """Clauses whose words name no aspect."""
    return [text for review in reviews for text, named in zip(review.clauses, review.named, strict=True) if not named]


def _parts(reviews: Iterable[SplitReview]) -> list[str]:
    """Clauses that are not the whole review."""
    return [text for review in reviews if len(review.clauses) > 1 for text in review.clauses]


def _batches(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    # A clause that comes often, such as «맛있어요», is sent once.
    return batches(dict.fromkeys(texts), size, lambda text: text)


def _in_original(text: str, normal: str, spans: list[Span]) -> list[Span]:
    """Offsets in a text, from those in its NFC."""
    if text == normal:
        return spans
    # Decomposed, both are the same, so that each character of either has its place there.
    lengths = [len(unicodedata.normalize("NFD", char)) for char in text]
    offsets = {place: offset for offset, place in enumerate(accumulate(lengths, initial=0))}
    ends = [offsets.get(len(unicodedata.normalize("NFD", normal[: span.end])), len(text)) for span in spans]
    return [Span(start, end) for start, end in zip([0, *ends], ends, strict=False)]
