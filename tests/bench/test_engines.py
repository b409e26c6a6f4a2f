"""What the engines' results are worth: ranks, differences from torch, and the report."""

import numpy as np

from bench import engines
from bench.relevance.corpus import Corpus, JudgedQuery
from review_service.schemas import Review
from tests.bench.test_report import HEAD

DATA = Corpus(
    [Review.model_validate({"review_id": name, "restaurant_id": "a", "text": name}) for name in ("one", "two")],
    [JudgedQuery("1", frozenset({"one"})), JudgedQuery("2", frozenset({"two"}))],
)
EXACT = np.eye(2, dtype=np.float32)
SWAPPED = EXACT[::-1]


def test_ranks_are_by_cosine() -> None:
    """The first right review counts by its rank."""
    assert engines.reciprocal_ranks(EXACT, EXACT, DATA) == [1.0, 1.0]
    assert engines.reciprocal_ranks(EXACT, SWAPPED, DATA) == [0.5, 0.5]


def test_each_engine_is_compared_with_torch() -> None:
    """Its own queries and vectors, and both mixed with torch's; labels by those that are right."""
    same = {"served": {"embedding": "e", "sentiment": "s"}, "memory_mb": 100.0, "second_adds": 0.25}
    measured = {
        "torch half": {**same, "queries": EXACT, "documents": EXACT, "labels": ["positive", "negative"]},
        "onnx int8": {**same, "queries": EXACT, "documents": SWAPPED, "labels": ["positive", "positive"]},
    }
    found = engines.compare(measured, DATA, ["positive", "negative"])
    assert found["torch half"]["own"] == {"mean": 0.0, "interval": (0.0, 0.0)}
    assert found["onnx int8"]["own"]["mean"] == found["onnx int8"]["torchs_in_own"]["mean"] == -0.5
    assert found["onnx int8"]["queries_in_torchs"]["mean"] == 0.0
    assert found["onnx int8"]["accuracy_difference"]["mean"] == -0.5
    document = {"machine": HEAD, "queries": 2, "reviews": 2, "classified": 2, "engines": found}
    assert "| onnx int8 | 0.5000 | -0.5000 (-1.0000 to +0.0000) | 100 | 0.25 × | e and s |" in engines.as_markdown(
        document
    )
