"""Paths of the benchmarks' files."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The repository."""
WORK = ROOT / ".onecard" / "bench"
"""Model, environments and logs of the benchmarks; git ignores it."""
MODEL = WORK / "bert-base"
"""The sentence-transformers folder that every contender loads."""
CLASSIFIER = WORK / "bert-base-classifier"
"""The sentiment classifier of the same size."""
REFERENCE = WORK / "reference.json"
"""FP32 vectors of fixed texts, with which responses are compared."""
LOGS = WORK / "logs"
"""Output of the servers."""
RESULTS = ROOT / "bench" / "results"
"""Results of full runs, under version control."""
QUICK_RESULTS = WORK / "quick"
"""Results of runs with `--quick`."""
SAMPLE_REVIEWS = ROOT / "data" / "sample_reviews.jsonl"
