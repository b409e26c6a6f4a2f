"""Runs the review service's searches over a corpus, with vectors that are computed once."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import numpy.typing as npt

from bench.paths import WORK
from bench.relevance.corpus import Corpus
from onecard.batching.queue import Lane
from review_service.model_services import EmbeddedTexts, Prediction
from review_service.reviews.index_maintenance import maintain
from review_service.reviews.rows import ClassifiedReview, Filters, digest_of
from review_service.reviews.store import open_store
from review_service.schemas import Mode, Review
from review_service.search.cosine_scale import CosineScales
from review_service.search.searcher import Searcher, SearchPlan
from review_service.search.vocabulary_source import VocabularySource
from review_service.search.word_files import WordFiles
from review_service.settings import ReviewSettings
from review_service.words.analyzer import MorphemeAnalyzer

MODEL = "bench"
DEPTH = 20
"""Number of results of each search."""

Vectors = npt.NDArray[np.float32]
Prompt = Literal["query", "document"]


class Encoder:
    """A sentence encoder. Vectors are kept in files, since computing those of a corpus takes minutes."""

    def __init__(self, folder: Path) -> None:
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(str(folder), device="cpu")
        weights = (folder / "model.safetensors").read_bytes()
        self._name = sha256(weights + repr(sorted(self._model.prompts.items())).encode()).hexdigest()

    def vectors(self, texts: Sequence[str], prompt: Prompt) -> Vectors:
        """Encode texts after one of the model's prompts: unit vectors, float32 of shape (texts, size)."""
        key = sha256(repr((self._name, prompt, list(texts))).encode()).hexdigest()[:16]
        kept = WORK / "vectors" / f"{key}.npy"
        if kept.exists():
            return np.load(kept)  # type: ignore[no-any-return]
        asked = [self._model.prompts.get(prompt, "") + text for text in texts]
        made: Vectors = self._model.encode(asked, normalize_embeddings=True, show_progress_bar=len(texts) > 100)
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.save(kept, made)
        return made


@dataclass(frozen=True)
class EncoderService:
    """Stands for the embedding service, without a network."""

    encoder: Encoder

    async def embed(self, texts: Sequence[str], lane: Lane, input_type: Prompt) -> EmbeddedTexts:
        """Encode texts, as `ModelServices.embed`."""
        return EmbeddedTexts(self.encoder.vectors(texts, input_type), MODEL)


@dataclass(frozen=True)
class Found:
    """Results of a search: ids with scores, best first."""

    ids: list[str]
    scores: list[float]

    def above(self, least: float) -> list[str]:
        """Ids of the results that have at least a score."""
        return [name for name, score in zip(self.ids, self.scores, strict=True) if score >= least]


@asynccontextmanager
async def searching(corpus: Corpus, encoder: Encoder) -> AsyncIterator[Searcher]:
    """Store a corpus as the review service does, and open a searcher of it."""
    service, files = EncoderService(encoder), WordFiles(None)
    analyzer = MorphemeAnalyzer(files.user_words())
    vectors = encoder.vectors([review.text for review in corpus.reviews], "document")
    rows = [_stored(review, analyzer) for review in corpus.reviews]
    with TemporaryDirectory() as folder:
        async with open_store(folder) as store:
            for first in range(0, len(rows), 1024):
                await store.upsert(rows[first : first + 1024], EmbeddedTexts(vectors[first : first + 1024], MODEL))
            await maintain(store, ReviewSettings.model_fields["review_index_rows"].default)
            vocabulary = VocabularySource(store)
            await vocabulary.refresh()
            yield Searcher(store, service, analyzer, vocabulary, files, CosineScales(service))


def _stored(review: Review, analyzer: MorphemeAnalyzer) -> ClassifiedReview:
    terms = analyzer.indexed(review.text, review.restaurant_name)
    return ClassifiedReview(review, digest_of(review), Prediction("positive", 1.0), terms, analyzer.version)


async def find(searcher: Searcher, queries: Sequence[str], mode: Mode) -> list[Found]:
    """Run searches in a mode, without a minimum score. Returns the first `DEPTH` results of each query."""
    made = []
    for text in queries:
        query, vocabulary = await searcher.parse(text)
        found = await searcher.find(SearchPlan(query, vocabulary, Filters(phrases=query.phrases), mode, DEPTH), "bulk")
        matches = found.matches[:DEPTH]
        made.append(Found([match.review_id for match in matches], [match.score for match in matches]))
    return made
