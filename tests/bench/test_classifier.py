"""The classifier's benchmark: which reviews it takes, and what it says of labels."""

import gzip
import json
from pathlib import Path

import pytest

from bench.classifier import as_markdown, compare, real_reviews
from tests.bench.test_report import HEAD


def test_reviews_in_between_are_left_out(tmp_path: Path) -> None:
    """1 to 4 stars are negative, 9 and 10 positive; the same are drawn each time."""
    path = tmp_path / "reviews.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps({"text": str(stars), "stars10": stars}) + "\n" for stars in range(1, 11))
    expected = {str(stars): "negative" for stars in range(1, 5)} | {"9": "positive", "10": "positive"}
    drawn = real_reviews(path, 10)
    assert dict(drawn) == expected
    assert real_reviews(path, 3) == real_reviews(path, 3)
    assert set(real_reviews(path, 3)) < set(drawn)


def test_accuracy_of_known_labels() -> None:
    """Each class has a share of its own, so that always saying the same does not look good."""
    reviews = [("a", "positive"), ("b", "positive"), ("c", "positive"), ("d", "negative")]
    found = compare(reviews, ["positive"] * 4)
    assert found["accuracy"] == 0.75
    assert found["classes"]["positive"] == {"texts": 3, "recall": 1.0}
    assert found["classes"]["negative"] == {"texts": 1, "recall": 0.0}
    low, high = found["interval"]
    assert (low + high) / 2 == pytest.approx(0.75)
    assert "| real reviews, negative | 1 | 0.000 |" in as_markdown(
        {"machine": HEAD, "model": "m", "corpora": {"real reviews": found}}
    )
