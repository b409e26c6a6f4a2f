"""The vector search's benchmark: its vectors, its contenders and its report."""

from pathlib import Path

import numpy as np
import pytest

from bench.measurements import Measurement
from bench.search import FILES, NEAREST, as_json, as_markdown, build, dataset, search, vectors_of
from tests.bench.test_report import HEAD, even_tables

ROWS = 2_000


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    dataset(folder, ROWS)
    return folder


def test_vectors_are_of_unit_length_and_in_clusters(data: Path) -> None:
    """A query is far nearer to its nearest than to vectors in general."""
    vectors, queries = vectors_of(data), np.load(data / "queries.npy")
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    scores = queries @ vectors.T
    assert np.median(scores.max(axis=1)) > np.median(scores) + 0.3


def test_the_truth_is_what_sorting_says(data: Path) -> None:
    """The nearest ten, the nearest first."""
    queries = np.load(data / "queries.npy")[:20]
    sorted_ = np.argsort(-(queries @ vectors_of(data).T), axis=1)[:, :NEAREST]
    assert (np.load(data / "truth.npy")[:20] == sorted_).all()


@pytest.mark.parametrize("name", FILES)
def test_every_contender_finds_the_nearest(name: str, data: Path) -> None:
    """On so few vectors each is exact, or nearly."""
    built = build(name, data)
    assert built["disk_mb"] > 1
    figures = search(name, data)
    assert figures["recall"] > 0.97
    assert figures["p50_ms"] <= figures["p99_ms"]


@pytest.mark.parametrize(("p99", "recall", "kept"), [(19.0, 0.95, True), (21.0, 0.99, False), (5.0, 0.94, False)])
def test_the_report_says_whether_promises_are_kept(p99: float, recall: float, kept: bool) -> None:
    """By latency, recall and memory; of ours alone."""
    figures = {"p50_ms": 1.0, "p99_ms": p99, "recall": recall, "search_peak_mb": 300.0, "queries": 1000}
    built = {"import_seconds": 2.0, "index_seconds": 7.0, "disk_mb": 600.0, "build_peak_mb": 1000.0}
    visits = [Measurement(name, "200000", number, figures) for name in FILES for number in range(3)]
    document = as_json(HEAD, {(name, "200000"): built for name in FILES}, visits)
    assert document["promises"] == {"200000": kept}
    text = as_markdown(document)
    assert ("**not kept**" in text) is not kept
    even_tables(text)
