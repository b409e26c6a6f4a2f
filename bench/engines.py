"""`python -m bench.engines` (`make bench-engines`): what an encoder's results are worth by each engine, and its memory.

Each engine is built for multilingual-e5-small and for the classifier's stand-in, and serves behind its service's port:

- vectors of the real corpus of `bench.relevance`: MRR@10 by cosine alone, of this engine's queries among its own
  vectors, of its queries among torch's vectors, and of torch's queries among its own;
- labels of 5,000 real reviews: their accuracy;
- memory: of one replica, and what a second one adds.
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from urllib.request import Request, urlopen

import numpy as np
import numpy.typing as npt
import orjson
import psutil
import typer

from bench import classifier, machine
from bench.command import Out, benchmark, parse_names, say
from bench.contenders import BUILT
from bench.paths import E5_SMALL, REAL_REVIEWS, ROOT, WORK
from bench.relevance import corpus
from bench.relevance.corpus import Corpus
from bench.relevance.measures import DEPTH, difference, score_ranking, signed
from bench.servers import ContenderServer, Servers, service
from bench.tables import number, page, table
from bench.workload import WORKLOADS

ENGINES = (("torch", "half"), *BUILT)
"""The first is what the others are compared with."""
NAMES = tuple(f"{engine}-{precision}" for engine, precision in BUILT)
REQUEST_TEXTS = 64
TIMEOUT_SECONDS = 300
MEASURE = "MRR@10"

Vectors = npt.NDArray[np.float32]


def build(models: Mapping[str, str], engines: Sequence[tuple[str, str]]) -> None:
    """Build what is not there yet. An engine that is too far from torch is not kept, and torch serves in its place."""
    sample = WORKLOADS["e5-small"].write_sample()
    for engine, precision in engines:
        if engine != "torch":
            command = ["build-engine", "--engine", engine, "--precision", precision, "--texts", str(sample)]
            subprocess.run([sys.executable, "-m", "onecard_stack", *command], cwd=ROOT, env={**os.environ, **models})


def ask(server: ContenderServer, path: str, texts: Sequence[str], **fields: str) -> list[dict[str, Any]]:
    """Send texts in requests of `REQUEST_TEXTS`. Returns the item of each text."""
    items: list[dict[str, Any]] = []
    for first in range(0, len(texts), REQUEST_TEXTS):
        body = orjson.dumps({"input": texts[first : first + REQUEST_TEXTS], **fields})
        request = Request(server.address + path, data=body, headers={"content-type": "application/json"})
        with urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            items += orjson.loads(answer.read())["data"]
    return items


def served_by(server: ContenderServer) -> str:
    """The engine that a service says it has."""
    with urlopen(f"{server.address}/v1/models", timeout=TIMEOUT_SECONDS) as answer:
        return str(orjson.loads(answer.read())["data"][0]["engine"])


def vectors(server: ContenderServer, texts: Sequence[str], input_type: str) -> Vectors:
    """Encode texts as `query` or `document`: unit vectors, float32 of shape (texts, size)."""
    items = ask(server, "/v1/embeddings", texts, input_type=input_type)
    return np.array([item["embedding"] for item in items], np.float32)


def reciprocal_ranks(queries: Vectors, documents: Vectors, data: Corpus) -> list[float]:
    """Rank documents by cosine: the reciprocal rank of each query's first right one, 0 beyond the tenth."""
    best = np.argsort(-(queries @ documents.T), axis=1, kind="stable")[:, :DEPTH]
    ids = [review.review_id for review in data.reviews]
    return [
        score_ranking([ids[place] for place in row], query.right)[MEASURE]
        for query, row in zip(data.queries, best, strict=True)
    ]


def proportional_mb(server: ContenderServer) -> float:
    """Resident memory of a server's processes in MB, in which pages that processes share count in parts (PSS)."""
    root = psutil.Process(server.pid)
    return float(sum(process.memory_full_info().pss for process in (root, *root.children(recursive=True)))) / 1e6


def measure(
    engine: str, precision: str, models: Mapping[str, str], data: Corpus, classified: Sequence[str]
) -> dict[str, Any]:
    """Let one engine compute everything; a second replica shows what it adds to the first one's memory."""
    settings = {**models, "ENCODER_ENGINE": engine, "ENCODER_PRECISION": precision, "CACHE_ENABLED": "false"}
    what = f"on {engine}, {precision}"
    with Servers(f"{engine}-{precision}-") as servers:
        first = servers.start_service("embedding", settings, what)
        served = {"embedding": served_by(first)}
        queries = vectors(first, [query.text for query in data.queries], "query")
        documents = vectors(first, [review.text for review in data.reviews], "document")
        alone = proportional_mb(first)
        second = servers.start(service("embedding", settings, name=f"{engine}-{precision}-second"))
        vectors(second, [review.text for review in data.reviews[:1000]], "document")
        both = proportional_mb(first) + proportional_mb(second)
    with Servers(f"{engine}-{precision}-") as servers:
        server = servers.start_service("sentiment", settings, what)
        served["sentiment"] = served_by(server)
        found = ask(server, "/v1/sentiment", classified)
    return {
        "served": served,
        "queries": queries,
        "documents": documents,
        "labels": [item["label"] for item in found],
        "memory_mb": alone,
        "second_adds": (both - alone) / alone,
    }


def compare(measured: Mapping[str, Mapping[str, Any]], data: Corpus, right: Sequence[str]) -> dict[str, Any]:
    """Compare each engine with torch, which is the first; `right` are the labels of the classified texts."""
    torch = next(iter(measured.values()))

    def hits(one: Mapping[str, Any]) -> list[float]:
        return [float(said == wanted) for said, wanted in zip(one["labels"], right, strict=True)]

    base, base_hits = reciprocal_ranks(torch["queries"], torch["documents"], data), hits(torch)
    figures = {}
    for name, one in measured.items():
        own = reciprocal_ranks(one["queries"], one["documents"], data)
        figures[name] = {
            **{key: one[key] for key in ("served", "memory_mb", "second_adds")},
            "mrr": float(np.mean(own)),
            "cosine": float(np.mean(np.einsum("ij,ij->i", one["documents"], torch["documents"]))),
            "own": difference(own, base),
            "queries_in_torchs": difference(reciprocal_ranks(one["queries"], torch["documents"], data), base),
            "torchs_in_own": difference(reciprocal_ranks(torch["queries"], one["documents"], data), base),
            "accuracy": float(np.mean(hits(one))),
            "accuracy_difference": difference(hits(one), base_hits),
        }
    return figures


def as_markdown(document: Mapping[str, Any]) -> str:
    """Render the report."""
    mixed = ["its queries, torch's vectors", "torch's queries, its vectors"]
    rows = [["", "cosine to torch's", "MRR@10", "− torch", *mixed]]
    more = [["", "accuracy", "− torch", "memory of one MB", "a second adds", "served by"]]
    for name, one in document["engines"].items():
        columns = [signed(one[key], 4) for key in ("own", "queries_in_torchs", "torchs_in_own")]
        rows.append([name, number(one["cosine"], 4), number(one["mrr"], 3), *columns])
        served = " and ".join(dict.fromkeys(one["served"].values()))
        accuracy = [number(one["accuracy"], 4), signed(one["accuracy_difference"], 4)]
        more.append([name, *accuracy, number(one["memory_mb"], 0), f"{one['second_adds']:.2f} ×", served])
    return page(
        "# What each engine's results are worth",
        machine.line(document["machine"]),
        "[What is measured, and what this does not say](../README.md#the-engines). Differences with 95 % intervals.",
        f"## Sentence encoder: {document['queries']} queries among {document['reviews']:,} reviews, by cosine",
        table(rows),
        f"## Classifier: {document['classified']:,} real reviews; memory of the sentence encoder",
        table(more),
    )


def main(
    engines: Annotated[str, typer.Option(help="Which, separated by commas, besides torch.")] = ",".join(NAMES),
    out: Out = None,
) -> None:
    """Compare the engines' results with torch's on real Korean text, and write engines.json and .md.

    Building takes minutes, once; each engine some minutes more. Ctrl-C stops all servers.
    """
    names = parse_names(engines, NAMES)
    wanted = [one for one in ENGINES if one[0] == "torch" or "-".join(one) in names]
    models = {"EMBEDDING_MODEL": str(E5_SMALL), "SENTIMENT_MODEL": str(classifier.MODEL), "MODEL_CACHE_PATH": str(WORK)}
    data = corpus.real()
    classified, right = zip(*classifier.real_reviews(REAL_REVIEWS, classifier.TEXTS), strict=True)
    with benchmark("engines", out) as run:
        build({**models, "USE_GPU": "false"}, wanted)
        measured = {}
        for engine, precision in wanted:
            measured[f"{engine} {precision}"] = measure(engine, precision, models, data, classified)
            say(f"{engine} {precision}: done")
        counts = {"queries": len(data.queries), "reviews": len(data.reviews), "classified": len(classified)}
        document = {"machine": run.head, **counts, "engines": compare(measured, data, right)}
        run.write(document, as_markdown(document))


if __name__ == "__main__":
    typer.run(main)
