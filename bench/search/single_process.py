"""`python -m bench.search.single_process build|search CONTENDER FOLDER ROWS`: runs one step of one contender.

It prints the figures as JSON. The process has only this contender, so that its memory can be measured from outside.
"""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.search.contenders import CONTENDERS, VectorIndex
from bench.search.vectors import NEAREST, Dataset
from bench.stats import percentile

WARM_UP = 50
"""Queries before the clock starts."""
MAX_SECONDS = 30.0
"""Timeout after which no further query is sent. A scan of a large table does not finish all of them."""


def build(contender: VectorIndex, data: Dataset) -> dict[str, Any]:
    """Build the index. Returns seconds for importing and indexing, and its size on disk in MB."""
    built = asdict(contender.build(data))
    path = contender.files(data)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {**built, "disk_mb": sum(file.stat().st_size for file in files) / 1e6}


def search(contender: VectorIndex, data: Dataset) -> dict[str, Any]:
    """Run the queries one after the other. Returns latencies in ms, and the recall of the true nearest rows."""
    queries, truth = data.queries(), data.truth()
    ask = contender.open(data)
    for query in queries[:WARM_UP]:
        ask(query)
    latencies_ms: list[float] = []
    found = 0
    end = time.monotonic() + MAX_SECONDS
    for query, nearest in zip(queries, truth, strict=True):
        if time.monotonic() > end:
            break
        started = time.perf_counter()
        ids = ask(query)
        latencies_ms.append((time.perf_counter() - started) * 1000)
        found += len(set(ids) & set(nearest.tolist()))
    return {
        "queries": len(latencies_ms),
        "p50_ms": percentile(latencies_ms, 0.5),
        "p99_ms": percentile(latencies_ms, 0.99),
        "recall": found / (NEAREST * len(latencies_ms)),
    }


def main(step: str, contender: str, folder: str, rows: str) -> None:
    """Run one step of one contender and print its figures."""
    take = {"build": build, "search": search}[step]
    print(json.dumps(take(CONTENDERS[contender], Dataset(Path(folder), int(rows)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
