"""What several tests of the review service start."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import numpy.typing as npt

from review_service.reviews.rows import Filters
from review_service.reviews.store import ReviewStore
from review_service.words.analyzer import MorphemeAnalyzer
from review_service.words.defaults import USER_WORDS
from review_service.words.user_words import parse_user_words
from tests.support import Server, free_port, serving


@cache
def analyzer() -> MorphemeAnalyzer:
    """Kiwi with the words that come with the service; loaded once a process."""
    return MorphemeAnalyzer(parse_user_words(USER_WORDS))


class OtherAnalyzer:
    """Finds the same term in each review."""

    version = "0f"

    def indexed(self, *_: object) -> str:
        """The term."""
        return "새말"


async def by_words(store: ReviewStore, text: str, filters: Filters, limit: int) -> dict[str, float]:
    """Search by the words of a text. Returns BM25 scores by review id, best first."""
    terms = dict.fromkeys((term.text for term in analyzer().terms(text)), 1.0)
    hits = await store.keyword_search(terms, filters, limit)
    return {hit.review_id: hit.score for hit in hits}


async def by_vector(
    store: ReviewStore, vector: npt.NDArray[np.float32], model: str, filters: Filters, limit: int
) -> dict[str, float]:
    """Search by a vector. Returns cosines by review id, best first."""
    hits = await store.vector_search(vector, model, filters, limit)
    return {hit.review_id: hit.score for hit in hits}


@contextmanager
def gateway_of(review: Server, **env: str) -> Iterator[Server]:
    """A gateway that keeps no answers, in front of a review service and of nothing else."""
    nobody = f"http://127.0.0.1:{free_port()}"
    others = {"LLM_URL": nobody, "SENTIMENT_URL": nobody, "EMBEDDING_URL": nobody, "CACHE_ENABLED": "false"}
    with serving("gateway", port_variable="GATEWAY_PORT", env={**others, "REVIEW_URL": review.url, **env}) as server:
        yield server
