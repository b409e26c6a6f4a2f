"""Synthetic vectors in clusters, queries from the same clusters, and which rows are truly nearest to each query.

A vector is its cluster's centre plus noise, made unit length. Both are Gaussian, with a standard deviation that falls
with the dimension as 1/√n: as in encoders' vectors, few directions hold most of the spread, so that clusters overlap
and a query's neighbours lie in several partitions of an index. Noise is 0.8 of the centres' size; there is a cluster
for every 200 rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

DIMENSIONS = 768
ROWS_PER_CLUSTER = 200
NOISE = 0.8
"""Of the centres' standard deviation."""
QUERIES = 1_000
NEAREST = 10
SEED = 7

_PORTION = 20_000
"""Rows made, or compared with the queries, at a time."""

Vectors = npt.NDArray[np.float32]
"""Rows × `DIMENSIONS`, each of unit length."""
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Dataset:
    """Files of one size."""

    folder: Path
    rows: int

    def vectors(self) -> Vectors:
        """All rows, left on disk until they are looked at."""
        return np.load(self.folder / "vectors.npy", mmap_mode="r")  # type: ignore[no-any-return]

    def queries(self) -> Vectors:
        """`QUERIES` of them."""
        return np.load(self.folder / "queries.npy")  # type: ignore[no-any-return]

    def truth(self) -> Ids:
        """For each query the ids of the `SEARCH_RESULTS` rows, the nearest first."""
        return np.load(self.folder / "truth.npy")  # type: ignore[no-any-return]


def dataset(work: Path, rows: int) -> Dataset:
    """The files for so many rows in a folder of `work`; made if they are not there."""
    made = Dataset(work / str(rows), rows)
    if not (made.folder / "truth.npy").exists():
        made.folder.mkdir(parents=True, exist_ok=True)
        _make(made)
    return made


def _portions(vectors: Vectors) -> Iterator[tuple[int, Vectors]]:
    """First id and rows of one portion after the other."""
    for start in range(0, len(vectors), _PORTION):
        yield start, vectors[start : start + _PORTION]


def _make(made: Dataset) -> None:
    rng = np.random.default_rng(SEED)
    spread = np.arange(1, DIMENSIONS + 1, dtype=np.float32) ** -0.5
    clusters = max(1, made.rows // ROWS_PER_CLUSTER)
    centres = rng.standard_normal((clusters, DIMENSIONS), np.float32) * spread

    def draw(count: int) -> Vectors:
        noise = rng.standard_normal((count, DIMENSIONS), np.float32) * spread * np.float32(NOISE)
        drawn = centres[rng.integers(0, clusters, count)] + noise
        unit: Vectors = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
        return unit

    shape = (made.rows, DIMENSIONS)
    vectors = np.lib.format.open_memmap(made.folder / "vectors.npy", "w+", np.float32, shape)  # type: ignore[no-untyped-call]
    for start in range(0, made.rows, _PORTION):
        vectors[start : start + _PORTION] = draw(min(_PORTION, made.rows - start))
    vectors.flush()
    queries = draw(QUERIES)
    np.save(made.folder / "queries.npy", queries)
    np.save(made.folder / "truth.npy", nearest(vectors, queries))


def nearest(vectors: Vectors, queries: Vectors) -> Ids:
    """For each query the ids of the `SEARCH_RESULTS` rows, by comparing it with every row."""
    ids = np.empty((len(queries), 0), np.int64)
    scores = np.empty((len(queries), 0), np.float32)
    for start, portion in _portions(vectors):
        found = queries @ portion.T
        ids = np.hstack([ids, np.broadcast_to(np.arange(start, start + len(portion)), found.shape)])
        scores = np.hstack([scores, found])
        best = _best(scores)
        ids, scores = np.take_along_axis(ids, best, 1), np.take_along_axis(scores, best, 1)
    return ids


def _best(scores: npt.NDArray[np.float32]) -> Ids:
    """For each row of `scores` the places of its `SEARCH_RESULTS` highest, the highest first."""
    some = np.argpartition(-scores, NEAREST - 1, axis=1)[:, :NEAREST]
    order = np.argsort(-np.take_along_axis(scores, some, 1), axis=1)
    best: Ids = np.take_along_axis(some, order, 1)
    return best
