"""Makes synthetic vectors in clusters, queries from the same clusters, and the true nearest rows of each query.

A vector is the centre of its cluster plus noise, normalised. Both are Gaussian with a standard deviation of 1/√n in the
n-th dimension: as in the vectors of encoders, few dimensions have most of the variance, so that clusters overlap and
the neighbours of a query are in several partitions of an index. The noise has 0.8 of the centres' standard deviation.
There is one cluster for every 200 rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

DIMENSIONS = 768
ROWS_PER_CLUSTER = 200
NOISE = 0.8
"""Standard deviation of the noise, as a multiple of that of the centres."""
QUERIES = 1_000
NEAREST = 10
SEED = 7

_PORTION = 20_000
"""Rows that are made, or compared with the queries, at a time."""

Vectors = npt.NDArray[np.float32]
"""Shape (rows, `DIMENSIONS`); each row has unit length."""
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Dataset:
    """The files of a data set."""

    folder: Path
    rows: int

    def vectors(self) -> Vectors:
        """Map all vectors from disk: float32 of shape (rows, `DIMENSIONS`)."""
        return np.load(self.folder / "vectors.npy", mmap_mode="r")  # type: ignore[no-any-return]

    def queries(self) -> Vectors:
        """Read the queries: float32 of shape (`QUERIES`, `DIMENSIONS`)."""
        return np.load(self.folder / "queries.npy")  # type: ignore[no-any-return]

    def truth(self) -> Ids:
        """Read the ids of the nearest rows, nearest first: int64 of shape (`QUERIES`, `NEAREST`)."""
        return np.load(self.folder / "truth.npy")  # type: ignore[no-any-return]


def dataset(work: Path, rows: int) -> Dataset:
    """Make the data set with this number of rows in a folder of `work`, unless it exists."""
    made = Dataset(work / str(rows), rows)
    if not (made.folder / "truth.npy").exists():
        made.folder.mkdir(parents=True, exist_ok=True)
        _make(made)
    return made


def _portions(vectors: Vectors) -> Iterator[tuple[int, Vectors]]:
    """Yield portions of the rows, each with the id of its first row."""
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
    """Find the ids of the nearest rows by comparing each query with every row: int64 of shape (queries, `NEAREST`)."""
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
    """Find the columns of the `NEAREST` highest scores of each row, highest first."""
    some = np.argpartition(-scores, NEAREST - 1, axis=1)[:, :NEAREST]
    order = np.argsort(-np.take_along_axis(scores, some, 1), axis=1)
    best: Ids = np.take_along_axis(some, order, 1)
    return best
