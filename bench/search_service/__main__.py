"""`python -m bench.search_service` (`make bench-search`): measures searches through the gateway, in every mode."""

import asyncio
import time
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, get_args

import httpx2 as httpx
import typer

from bench import files, machine
from bench.command import orderly_exit, parse_numbers, start_server
from bench.memory import resident_bytes
from bench.paths import ROOT
from bench.relevance.corpus import STATEMENTS, rows_of
from bench.relevance.searches import Encoder
from bench.search_service.filled_store import filled_store
from bench.servers import ContenderServer, python_module
from bench.stats import percentile
from bench.tables import number, table
from review_service.schemas import Mode

ENCODER = ROOT / ".onecard" / "models" / "onecard--standin-ko-sbert"
SIZES = (10_000, 200_000)
MODES: tuple[Mode, ...] = get_args(Mode)
WARM_UP = 20
"""Queries of each mode before the clock starts."""
MAX_P99_MS = {"keyword": 15.0, "hybrid": 35.0}


def queries() -> list[str]:
    """Real queries, and the same in pairs: all are distinct."""
    asked = [row["entailment"] for row in rows_of(STATEMENTS)]
    return asked + [f"{first} {second}" for first, second in zip(asked[::2], asked[1::2], strict=True)]


def _latencies(gateway: ContenderServer, mode: Mode, asked: list[str]) -> dict[str, Any]:
    headers = {"cache-control": "no-store"}
    milliseconds: list[float] = []
    with httpx.Client(base_url=gateway.url, timeout=60, headers=headers) as client:
        for place, query in enumerate(asked):
            started = time.perf_counter()
            answer = client.post("/v1/reviews/search", json={"query": query, "mode": mode, "min_score": 0})
            taken = (time.perf_counter() - started) * 1000
            answer.raise_for_status()
            if answer.json()["degraded"]:
                raise SystemExit("the encoder did not answer")
            if place >= WARM_UP:
                milliseconds.append(taken)
    return {f"p{percent}_ms": percentile(milliseconds, percent / 100) for percent in (50, 95, 99)}


def _disk(store: Path, dimensions: int, rows: int) -> dict[str, Any]:
    kept = [path for path in store.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in kept)
    return {"disk_mb": size / 1e6, "files": len(kept), "vectors_mb": rows * dimensions * 4 / 1e6}


def measure(rows: int, encoder: Path, asked: list[str]) -> dict[str, Any]:
    """Measure a store of this many reviews.

    Args:
        rows: Number of reviews.
        encoder: Folder of the encoder.
        asked: Distinct queries.

    Returns:
        Latencies by mode, in ms, with memory and disk in MB.
    """
    with ExitStack() as stack:
        settings = {"EMBEDDING_MODEL": str(encoder), "CACHE_ENABLED": "false"}
        embedding = start_server(
            stack, python_module("search-embedding", "the encoder", "embedding_service", "EMBEDDING_PORT", settings)
        )
        named = httpx.post(f"{embedding.url}/v1/embeddings", json={"input": "가"}, timeout=60).json()
        loaded = Encoder(encoder)
        store = asyncio.run(filled_store(rows, loaded, named["model"]))
        dimensions = len(named["data"][0]["embedding"])
        addresses = {"EMBEDDING_URL": embedding.url, "REVIEW_STORE": str(store)}
        review = start_server(
            stack, python_module("search-review", "the review service", "review_service", "REVIEW_PORT", addresses)
        )
        gateway = start_server(
            stack,
            python_module("search-gateway", "the gateway", "gateway", "GATEWAY_PORT", {"REVIEW_URL": review.url}),
        )
        modes = {mode: _latencies(gateway, mode, asked) for mode in MODES}
        return {"modes": modes, "memory_mb": resident_bytes(review.pid) / 1e6, **_disk(store, dimensions, rows)}


def as_markdown(document: dict[str, Any]) -> str:
    """Render the report."""
    parts = ["# Searches through the gateway", machine.line(document["machine"])]
    for rows, figures in document["sizes"].items():
        lines = [["", "p50 ms", "p95 ms", "p99 ms", "promised"]]
        for mode, taken in figures["modes"].items():
            limit = MAX_P99_MS.get(mode)
            kept = "" if limit is None else f"< {limit:g}: {'kept' if taken['p99_ms'] < limit else '**not kept**'}"
            lines.append([mode, *(number(taken[f"p{percent}_ms"], 1) for percent in (50, 95, 99)), kept])
        parts += [
            f"## {int(rows):,} reviews",
            table(lines),
            f"The review service takes {figures['memory_mb']:.0f} MB of memory; the store {figures['disk_mb']:.0f} MB "
            f"on disk in {figures['files']} files, of which the vectors alone are {figures['vectors_mb']:.0f} MB.",
        ]
    return "\n\n".join(parts) + "\n"


def main(
    encoder: Annotated[Path, typer.Option(help="Folder of a sentence-transformers model.")] = ENCODER,
    sizes: Annotated[str, typer.Option(help="Numbers of reviews, separated by commas.")] = ",".join(map(str, SIZES)),
    out: Annotated[Path | None, typer.Option(help="Folder for results; bench/results by default.")] = None,
) -> None:
    """Search one query at a time, all different, without any cache; write search-service.json and .md.

    Vectors of the reviews are made beforehand, those of the queries are computed. Stores are kept in .onecard/bench.

    Raises:
        SystemExit: There is no real Korean text, or the encoder does not answer.
    """
    if not STATEMENTS.exists():
        raise SystemExit(f"LEFT OUT: there is no real Korean text in {STATEMENTS.parent.name}.")
    head = machine.describe("python -m bench.search_service") | {"lancedb": version("lancedb")}
    asked = queries()
    with orderly_exit():
        measured = {str(size): measure(size, encoder, asked) for size in parse_numbers(sizes)}
    document = {"machine": head, "sizes": measured}
    folder = files.folder_for(out, quick=False)
    files.write(folder, "search-service", document, as_markdown(document))
    files.show(folder, "search-service")


if __name__ == "__main__":
    typer.run(main)
