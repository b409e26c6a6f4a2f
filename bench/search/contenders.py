"""The vector indexes that are compared. Each runs in a process of its own."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bench.search.vectors import DIMENSIONS, NEAREST, Dataset, Vectors
from review_service.index_plan import MIN_INDEX_ROWS, NPROBES, REFINE_FACTOR, ivf_parameters

if TYPE_CHECKING:
    import pyarrow as pa

Search = Callable[[Vectors], Sequence[int]]
"""Finds the ids of the `NEAREST` rows of a query, a vector of `DIMENSIONS` numbers."""

HNSW_NEIGHBOURS = 32
HNSW_BUILD_CANDIDATES = 80
HNSW_SEARCH_CANDIDATES = 128

_IMPORT_ROWS = 10_000
"""Rows per write."""


@dataclass(frozen=True)
class BuildTimes:
    """Durations of building an index."""

    import_seconds: float
    """Seconds for importing; 0 if the index reads the file of vectors."""
    index_seconds: float
    """Seconds for indexing; 0 without an index."""


class VectorIndex(Protocol):
    """A way to search vectors."""

    def build(self, data: Dataset) -> BuildTimes:
        """Write the vectors to disk in the contender's own format."""

    def open(self, data: Dataset) -> Search:
        """Open the result of `build` for searching."""

    def files(self, data: Dataset) -> Path:
        """Path of the file or folder that `build` has written."""


class NumpyScan:
    """NumPy: a product with all vectors in memory, and its largest elements."""

    def build(self, data: Dataset) -> BuildTimes:
        """Do nothing, because `open` reads the file of vectors."""
        return BuildTimes(0.0, 0.0)

    def open(self, data: Dataset) -> Search:
        """Read all vectors into memory."""
        vectors: Vectors = np.load(self.files(data))

        def search(query: Vectors) -> Sequence[int]:
            scores = vectors @ query
            best = np.argpartition(-scores, NEAREST)[:NEAREST]
            return best[np.argsort(-scores[best])].tolist()  # type: ignore[no-any-return]

        return search

    def files(self, data: Dataset) -> Path:
        """Path of the file of vectors."""
        return data.folder / "vectors.npy"


class FaissIndex:
    """FAISS: an HNSW graph over uncompressed vectors in memory."""

    def build(self, data: Dataset) -> BuildTimes:
        """Build the graph and write it to disk."""
        import faiss

        vectors: Vectors = np.load(data.folder / "vectors.npy")
        started = time.perf_counter()
        index: Any = faiss.IndexHNSWFlat(DIMENSIONS, HNSW_NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = HNSW_BUILD_CANDIDATES
        index.add(vectors)
        built = time.perf_counter()
        faiss.write_index(index, str(self.files(data)))
        return BuildTimes(0.0, built - started)

    def open(self, data: Dataset) -> Search:
        """Read the graph into memory."""
        import faiss

        index: Any = faiss.read_index(str(self.files(data)))
        index.hnsw.efSearch = HNSW_SEARCH_CANDIDATES
        return lambda query: index.search(query[None], NEAREST)[1][0].tolist()

    def files(self, data: Dataset) -> Path:
        """Path of the graph, which includes the vectors."""
        return data.folder / "hnsw.faiss"


class LanceDbIndex:
    """LanceDB, configured as in the review service."""

    _TABLE = "vectors"

    def build(self, data: Dataset) -> BuildTimes:
        """Write the table, and build the index that the review service uses for this number of rows."""
        import lancedb
        from lancedb.index import IvfRq

        shutil.rmtree(self.files(data), ignore_errors=True)
        started = time.perf_counter()
        rows = _record_batches(data)
        table = lancedb.connect(self.files(data)).create_table(self._TABLE, rows)
        imported = time.perf_counter()
        if data.rows >= MIN_INDEX_ROWS:
            table.create_index("vector", config=IvfRq(distance_type="cosine", **ivf_parameters(data.rows)))
        return BuildTimes(imported - started, time.perf_counter() - imported)

    def open(self, data: Dataset) -> Search:
        """Open the table."""
        import lancedb

        table: Any = lancedb.connect(self.files(data)).open_table(self._TABLE)

        def search(query: Vectors) -> Sequence[int]:
            asked = table.search(query, vector_column_name="vector").distance_type("cosine")
            asked = asked.nprobes(NPROBES).refine_factor(REFINE_FACTOR).select(["id", "_distance"])
            return asked.limit(NEAREST).to_arrow()["id"].to_pylist()  # type: ignore[no-any-return]

        return search

    def files(self, data: Dataset) -> Path:
        """Path of the table with its index."""
        return data.folder / "lancedb"


def _record_batches(data: Dataset) -> "pa.RecordBatchReader":
    import pyarrow as pa

    from review_service.reviews.rows import table_schema as stored

    kind = stored(DIMENSIONS, "bench", "bench").field("vector").type
    schema = pa.schema([("id", pa.int64()), ("vector", kind)])

    def batches() -> "Iterator[pa.RecordBatch]":
        for start in range(0, data.rows, _IMPORT_ROWS):
            # The file is mapped again for each batch, because pages of one mapping would all count as resident memory.
            portion = data.vectors()[start : start + _IMPORT_ROWS]
            flat = pa.array(portion.astype(kind.value_type.to_pandas_dtype()).ravel(), kind.value_type)
            ids = pa.array(range(start, start + len(portion)), pa.int64())
            yield pa.record_batch([ids, pa.FixedSizeListArray.from_arrays(flat, DIMENSIONS)], schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())


CONTENDERS: dict[str, VectorIndex] = {"lancedb": LanceDbIndex(), "faiss": FaissIndex(), "numpy": NumpyScan()}
