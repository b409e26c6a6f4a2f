"""The vector search's benchmark: its vectors, its contenders and its report."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench.measurements import Measurement
from bench.search import report
from bench.search.contenders import CONTENDERS
from bench.search.report import VectorSearchResults
from bench.search.single_process import build, search
from bench.search.vectors import NEAREST, Dataset, dataset, nearest
from tests.bench.test_report import HEAD

ROWS = 2_000


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return dataset(tmp_path_factory.mktemp("search"), ROWS)


def test_vectors_are_of_unit_length_and_in_clusters(data: Dataset) -> None:
    """A query is far nearer to its nearest than to vectors in general."""
    vectors, queries = data.vectors(), data.queries()
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    scores = queries @ vectors.T
    assert np.median(scores.max(axis=1)) > np.median(scores) + 0.3


def test_the_truth_is_what_sorting_says(data: Dataset) -> None:
    """The nearest ten, the nearest first."""
    queries = data.queries()[:20]
    sorted_ = np.argsort(-(queries @ data.vectors().T), axis=1)[:, :NEAREST]
    assert (nearest(data.vectors(), queries) == sorted_).all()
    assert (data.truth()[:20] == sorted_).all()


@pytest.mark.parametrize("name", CONTENDERS)
def test_every_contender_finds_the_nearest(name: str, data: Dataset) -> None:
    """On so few vectors each is exact, or nearly."""
    contender = CONTENDERS[name]
    built = build(contender, data)
    assert built["disk_mb"] > 1
    figures = search(contender, data)
    assert figures["recall"] > 0.97
    assert figures["p50_ms"] <= figures["p99_ms"]


@pytest.mark.parametrize(("p99", "recall", "kept"), [(19.0, 0.95, True), (21.0, 0.99, False), (5.0, 0.94, False)])
def test_the_report_says_whether_promises_are_kept(p99: float, recall: float, kept: bool, tmp_path: Path) -> None:
    """By latency, recall and memory; of ours alone."""
    figures = {"p50_ms": 1.0, "p99_ms": p99, "recall": recall, "search_peak_mb": 300.0, "queries": 1000}
    built = {"import_seconds": 2.0, "index_seconds": 7.0, "disk_mb": 600.0, "build_peak_mb": 1000.0}
    visits = [Measurement(name, "200000", number, figures) for name in CONTENDERS for number in range(3)]
    results = VectorSearchResults({name: {"200000": built} for name in CONTENDERS}, visits)
    report.write(tmp_path, "search", HEAD, results)
    assert json.loads((tmp_path / "search.json").read_text())["promises"] == {"200000": kept}
    text = (tmp_path / "search.md").read_text()
    assert ("**not kept**" in text) is not kept
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert all(len({row.count("|") for row in rows}) == 1 for rows in tables)
