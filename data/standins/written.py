"""Clauses of reviews, each written for this project: what somebody saw, ate or waited for, said in their own words.

A grammar repeats its patterns. These do not, and most tell praise from blame by what happened alone.
"""

import json
from importlib.resources import files

FILE = "written_clauses.jsonl"
"""Lines with `text` and `sentiment`."""


def written_clauses() -> list[tuple[str, bool]]:
    """Each clause, and whether it is positive."""
    lines = files("standins").joinpath(FILE).read_text(encoding="utf-8").splitlines()
    rows = map(json.loads, lines)
    return [(row["text"], row["sentiment"] == "positive") for row in rows]
