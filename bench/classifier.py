"""`python -m bench.classifier` (`make bench-classifier`): how often a sentiment classifier is right about real reviews.

The reviews are those of `shared/data`, which the repository does not contain: films, with one to ten stars. 1 to 4 are
negative, 9 and 10 positive, and what lies between is left out.
"""

import random
from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import machine
from bench.command import MODELS, Out, benchmark
from bench.paths import REAL_REVIEWS
from bench.tables import number, page, table
from bench.texts import real_rows
from standins.corpus import label

MODEL = MODELS / "onecard--standin-kakao-sentiment"
TEXTS = 5000
NEGATIVE, POSITIVE = 4, 9
"""Most stars of a negative review, least of a positive one."""

Review = tuple[str, str]
"""Text and label."""


def real_reviews(path: Path, count: int, seed: int = 1) -> list[Review]:
    """Draw `count` reviews that are clearly positive or negative, with their labels; shortest first."""
    clear = [row for row in real_rows(path) if row["stars10"] <= NEGATIVE or row["stars10"] >= POSITIVE]
    random.Random(seed).shuffle(clear)
    drawn = sorted(clear[:count], key=lambda row: len(row["text"]))  # similar lengths pad little
    return [(row["text"], label(row["stars10"] >= POSITIVE)) for row in drawn]


def compare(reviews: Sequence[Review], found: Sequence[str]) -> dict[str, Any]:
    """Compare labels: accuracy with its 95 % interval (normal approximation), and the share of each class found."""
    right = [wanted == said for (_, wanted), said in zip(reviews, found, strict=True)]
    accuracy = sum(right) / len(right)
    margin = 1.96 * sqrt(accuracy * (1 - accuracy) / len(right))
    recalls = {}
    for name in (label(True), label(False)):
        of_class = [hit for (_, wanted), hit in zip(reviews, right, strict=True) if wanted == name]
        recalls[name] = {"texts": len(of_class), "recall": sum(of_class) / len(of_class) if of_class else None}
    return {
        "texts": len(right),
        "accuracy": accuracy,
        "interval": [accuracy - margin, accuracy + margin],
        "classes": recalls,
    }


def as_markdown(document: Mapping[str, Any]) -> str:
    """Render the report."""
    rows = [["", "texts", "right"]]
    for title, one in document["corpora"].items():
        accuracy = "{:.3f} ({:.3f} to {:.3f})".format(one["accuracy"], *one["interval"])
        rows.append([title, number(one["texts"], 0), accuracy])
        for name, part in one["classes"].items():
            rows.append([f"{title}, {name}", number(part["texts"], 0), number(part["recall"], 3)])
    return page(
        "# What a sentiment classifier gets right",
        machine.line(document["machine"]),
        "[What is measured, and what this does not say](../README.md#what-the-classifier-gets-right).",
        f"Model: {document['model']}",
        table(rows),
    )


def main(
    model: Annotated[Path, typer.Option(help="Folder of a classifier with labels 'negative' and 'positive'.")] = MODEL,
    reviews: Annotated[Path, typer.Option(help="Real reviews, .jsonl.gz; left out if there are none.")] = REAL_REVIEWS,
    out: Out = None,
) -> None:
    """Measure a classifier on real reviews and on the held-out sentences, and write classifier.json and .md."""
    from standins.corpus import heldout_sentences
    from standins.sentiment import load, predict

    corpora = {"held-out sentences": [(str(row["text"]), str(row["sentiment"])) for row in heldout_sentences()]}
    if reviews.exists():
        corpora["real reviews"] = real_reviews(reviews, TEXTS)
    else:
        print(f"LEFT OUT: there are no real reviews in {reviews.parent}. Name a file with --reviews.")
    with benchmark("classifier", out) as run:
        classifier = load(model)
        measured = {
            title: compare(rows, predict(*classifier, [text for text, _ in rows])) for title, rows in corpora.items()
        }
        document = {"machine": run.head, "model": model.name, "corpora": measured}
        run.write(document, as_markdown(document))


if __name__ == "__main__":
    typer.run(main)
