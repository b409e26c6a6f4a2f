"""`python -m bench.search` (`make bench-vectors`): compares the review service's vector index with FAISS and NumPy.

Each step of a contender runs in a process of its own (`--step`), so that its memory can be measured from outside.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from bench import machine
from bench.command import Out, Quick, Rounds, benchmark, interleave, parse_names, parse_numbers
from bench.measurements import Figures, Measurement, medians, percentiles
from bench.memory import PeakMemory
from bench.paths import ROOT, WORK
from bench.tables import number, page, table
from review_service.index_plan import MIN_INDEX_ROWS, NPROBES, REFINE_FACTOR, ivf_parameters

SIZES, QUICK_SIZES = "10000,200000", "10000"
DIMENSIONS, ROWS_PER_CLUSTER, SEED = 768, 200, 7
NOISE = 0.8
"""Standard deviation of the noise around a cluster's centre, as a multiple of that of the centres."""
QUERIES, WARM_UP, NEAREST = 1_000, 50, 10
MAX_SECONDS = 30.0
"""Timeout after which no further query is sent. A scan of a large table does not finish all of them."""
HNSW_NEIGHBOURS, HNSW_BUILD_CANDIDATES, HNSW_SEARCH_CANDIDATES = 32, 80, 128
_MADE_ROWS, _WRITTEN_ROWS = 20_000, 10_000
"""Rows that are made, and written to a table, at a time."""
MAX_P99_MS = {200_000: 20.0, 1_000_000: 50.0}
"""Targets by number of rows, for the review service's index on two cores."""
MIN_RECALL, MAX_MEMORY_MB = 0.95, 2_000.0

Vectors = npt.NDArray[np.float32]
"""Shape (rows, `DIMENSIONS`); each row has unit length."""
Search = Callable[[Vectors], Sequence[int]]
"""Finds the ids of the `NEAREST` rows of a query, a vector of `DIMENSIONS` numbers."""
FILES = {"lancedb": "lancedb", "faiss": "hnsw.faiss", "numpy": "vectors.npy"}
"""What each contender searches, below the folder of the vectors."""


def vectors_of(folder: Path) -> Vectors:
    """Map all vectors from disk."""
    return np.load(folder / "vectors.npy", mmap_mode="r")  # type: ignore[no-any-return]


def dataset(folder: Path, rows: int) -> None:
    """Write vectors in clusters, queries from the same clusters, and each query's nearest rows, unless they are there.

    Centres and noise are Gaussian with a standard deviation of 1/√n in the n-th dimension: as in the vectors of
    encoders, few dimensions have most of the variance, so that clusters overlap and the neighbours of a query are in
    several partitions of an index.
    """
    if (folder / "truth.npy").exists():
        return
    import faiss

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    spread = np.arange(1, DIMENSIONS + 1, dtype=np.float32) ** -0.5
    centres = rng.standard_normal((max(1, rows // ROWS_PER_CLUSTER), DIMENSIONS), np.float32) * spread

    def draw(count: int) -> Vectors:
        noise = rng.standard_normal((count, DIMENSIONS), np.float32) * spread * np.float32(NOISE)
        drawn = centres[rng.integers(0, len(centres), count)] + noise
        unit: Vectors = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
        return unit

    shape = (rows, DIMENSIONS)
    vectors = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float32, shape)  # type: ignore[no-untyped-call]
    for start in range(0, rows, _MADE_ROWS):
        vectors[start : start + _MADE_ROWS] = draw(min(_MADE_ROWS, rows - start))
    vectors.flush()
    queries = draw(QUERIES)
    np.save(folder / "queries.npy", queries)
    np.save(folder / "truth.npy", faiss.knn(queries, vectors, NEAREST, metric=faiss.METRIC_INNER_PRODUCT)[1])


def build(contender: str, folder: Path) -> dict[str, Any]:
    """Write a contender's file. Returns seconds for importing and indexing, 0 without, and its size in MB."""
    path, times = folder / FILES[contender], (0.0, 0.0)
    if contender == "faiss":
        times = _build_faiss(folder, path)
    elif contender == "lancedb":
        times = _build_lancedb(folder, path)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files) / 1e6
    return {"import_seconds": times[0], "index_seconds": times[1], "disk_mb": size}


def _build_faiss(folder: Path, path: Path) -> tuple[float, float]:
    import faiss

    vectors, started = np.load(folder / "vectors.npy"), time.perf_counter()
    index: Any = faiss.IndexHNSWFlat(DIMENSIONS, HNSW_NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = HNSW_BUILD_CANDIDATES
    index.add(vectors)
    taken = time.perf_counter() - started
    faiss.write_index(index, str(path))
    return 0.0, taken


def _build_lancedb(folder: Path, path: Path) -> tuple[float, float]:
    """Write the table and its index as the review service does."""
    import lancedb
    import pyarrow as pa
    from lancedb.index import IvfRq

    from review_service.reviews.rows import table_schema

    kind, rows = table_schema(DIMENSIONS, "bench", "bench").field("vector").type, len(vectors_of(folder))
    schema = pa.schema([("id", pa.int64()), ("vector", kind)])

    def batch(start: int) -> Any:
        # The file is mapped again for each batch, because pages of one mapping would all count as resident memory.
        portion = vectors_of(folder)[start : start + _WRITTEN_ROWS]
        flat = pa.array(portion.astype(kind.value_type.to_pandas_dtype()).ravel(), kind.value_type)
        ids = pa.array(range(start, start + len(portion)), pa.int64())
        return pa.record_batch([ids, pa.FixedSizeListArray.from_arrays(flat, DIMENSIONS)], schema=schema)

    shutil.rmtree(path, ignore_errors=True)
    started = time.perf_counter()
    batches = pa.RecordBatchReader.from_batches(schema, map(batch, range(0, rows, _WRITTEN_ROWS)))
    made = lancedb.connect(path).create_table("vectors", batches)
    imported = time.perf_counter()
    if rows >= MIN_INDEX_ROWS:
        made.create_index("vector", config=IvfRq(distance_type="cosine", **ivf_parameters(rows)))
    return imported - started, time.perf_counter() - imported


def open_index(contender: str, path: Path) -> Search:
    """Open what `build` has written: FAISS and NumPy read it into memory, LanceDB searches as the review service."""
    if contender == "faiss":
        import faiss

        index: Any = faiss.read_index(str(path))
        index.hnsw.efSearch = HNSW_SEARCH_CANDIDATES
        return lambda query: index.search(query[None], NEAREST)[1][0].tolist()
    if contender == "lancedb":
        import lancedb

        opened: Any = lancedb.connect(path).open_table("vectors")

        def search_table(query: Vectors) -> Sequence[int]:
            asked = opened.search(query, vector_column_name="vector").distance_type("cosine")
            asked = asked.nprobes(NPROBES).refine_factor(REFINE_FACTOR).select(["id", "_distance"])
            return asked.limit(NEAREST).to_arrow()["id"].to_pylist()  # type: ignore[no-any-return]

        return search_table
    vectors: Vectors = np.load(path)

    def scan(query: Vectors) -> Sequence[int]:
        scores = vectors @ query
        best = np.argpartition(-scores, NEAREST)[:NEAREST]
        return best[np.argsort(-scores[best])].tolist()  # type: ignore[no-any-return]

    return scan


def search(contender: str, folder: Path) -> dict[str, Any]:
    """Run the queries one after the other. Returns latencies in ms, and the recall of the true nearest rows."""
    queries, truth = np.load(folder / "queries.npy"), np.load(folder / "truth.npy")
    ask = open_index(contender, folder / FILES[contender])
    for query in queries[:WARM_UP]:
        ask(query)
    latencies_ms: list[float] = []
    found, end = 0, time.monotonic() + MAX_SECONDS
    for query, nearest in zip(queries, truth, strict=True):
        if time.monotonic() > end:
            break
        started = time.perf_counter()
        ids = ask(query)
        latencies_ms.append((time.perf_counter() - started) * 1000)
        found += len(set(ids) & set(nearest.tolist()))
    recall = found / (NEAREST * len(latencies_ms))
    return {"queries": len(latencies_ms), **percentiles(latencies_ms, 50, 99), "recall": recall}


STEPS = {"build": build, "search": search}


def run_step(name: str, contender: str, folder: Path) -> dict[str, Any]:
    """Run `build` or `search` of a contender in a process of its own. Returns its figures and peak memory in MB."""
    command = [sys.executable, "-m", "bench.search", "--step", f"{name},{contender},{folder}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process, PeakMemory(process.pid) as watch:
        said, _ = process.communicate()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return {**json.loads(said), f"{name}_peak_mb": watch.peak_mb}


def as_json(
    head: Mapping[str, Any], builds: Mapping[tuple[str, str], Mapping[str, Any]], visits: Sequence[Measurement]
) -> dict[str, Any]:
    """Collect all results: what building took, by contender and rows, and the searches, whose cells are rows."""
    together = {
        name: {rows: {**builds[name, rows], **figures} for rows, figures in cells.items()}
        for name, cells in medians(visits, largest=["search_peak_mb"]).items()
    }
    kept = {
        rows: cell["p99_ms"] < MAX_P99_MS[int(rows)]
        and cell["recall"] >= MIN_RECALL
        and cell["search_peak_mb"] < MAX_MEMORY_MB
        for rows, cell in together.get("lancedb", {}).items()
        if int(rows) in MAX_P99_MS
    }
    visited = [asdict(visit) for visit in visits]
    return {"machine": dict(head), "medians": together, "promises": kept, "visits": visited}


def as_markdown(document: Mapping[str, Any]) -> str:
    """Render the report."""
    summary, head = document["medians"], ["import rows/s", "index s", "p50 ms", "p99 ms", f"recall@{NEAREST}"]
    parts = []
    for rows in sorted({int(rows) for cells in summary.values() for rows in cells}):
        made = [["", *head, "resident MB", "building MB", "disk MB"]]
        for name, cells in summary.items():
            if cell := cells.get(str(rows)):
                seconds = cell["import_seconds"]
                building = [number(rows / seconds if seconds else None, 0), number(cell["index_seconds"] or None, 1)]
                searching = [number(cell["p50_ms"], 2), number(cell["p99_ms"], 2), number(cell["recall"], 3)]
                sizes = [number(cell[key], 0) for key in ("search_peak_mb", "build_peak_mb", "disk_mb")]
                made.append([name, *building, *searching, *sizes])
        parts += [f"## {rows:,} vectors", table(made)]
        if str(rows) in document["promises"]:
            kept = "kept" if document["promises"][str(rows)] else "**not kept**"
            parts.append(
                f"Promised for the review service: p99 below {MAX_P99_MS[rows]:g} ms, recall of at least "
                f"{MIN_RECALL:g}, less than {MAX_MEMORY_MB / 1000:g} GB of memory: {kept}."
            )
    what = f"Vectors of {DIMENSIONS} dimensions in clusters; one query at a time."
    more = "[What is measured, and what this does not say](../README.md#vector-search)."
    return page("# Vector search", machine.line(document["machine"]), f"{what} {more}", *parts)


def main(
    sizes: Annotated[str, typer.Option(help="Numbers of vectors, separated by commas.")] = SIZES,
    contenders: Annotated[str, typer.Option(help="Which, separated by commas.")] = ",".join(FILES),
    rounds: Rounds = 3,
    out: Out = None,
    quick: Quick = False,
    step: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Measure vector search on this machine and write search.json and search.md.

    It takes about four minutes; nothing else should run meanwhile. --sizes 1000000 --contenders lancedb,numpy takes
    five minutes and 8 GB of disk, and writes search-1000000.json and .md.
    """
    if step:
        name, contender, where = step.split(",", 2)
        print(json.dumps(STEPS[name](contender, Path(where))))
        return
    if quick:
        sizes, rounds = QUICK_SIZES if sizes == SIZES else sizes, 1
    # Results of other sizes do not replace those of the default sizes.
    name = "search" if quick or sizes == SIZES else f"search-{sizes.replace(',', '-')}"
    names, cells = parse_names(contenders, [*FILES]), [str(size) for size in parse_numbers(sizes)]
    builds: dict[tuple[str, str], dict[str, Any]] = {}
    visits: list[Measurement] = []
    folder = WORK / "search"

    def measure(contender: str, rows: str, _: int) -> Figures:
        if (contender, rows) not in builds:
            builds[contender, rows] = run_step("build", contender, folder / rows)
        return run_step("search", contender, folder / rows)

    with benchmark("search", out, quick=quick, name=name) as run:
        run.head.update({package: version(package) for package in ("lancedb", "faiss-cpu", "numpy")})
        for rows in cells:
            dataset(folder / rows, int(rows))
        interleave(rounds, dict.fromkeys(cells, names), measure, visits)
        document = as_json(run.head, builds, visits)
        run.write(document, as_markdown(document))


if __name__ == "__main__":
    typer.run(main)
