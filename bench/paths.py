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
E5_SMALL = ROOT / ".onecard" / "models" / "onecard--standin-ko-sbert"
"""multilingual-e5-small, which `python -m standins train --only embedding` converts."""
LOGS = WORK / "logs"
"""Output of the servers."""
RESULTS = ROOT / "bench" / "results"
"""Results of full runs, under version control."""
QUICK_RESULTS = WORK / "quick"
"""Results of runs with `--quick`."""
SAMPLE_REVIEWS = ROOT / "data" / "sample_reviews.jsonl"
REAL_DATA = ROOT.parent / "shared" / "data"
"""Real Korean text, which the repository does not contain. Its README says where it comes from."""
REAL_REVIEWS = REAL_DATA / "real_reviews.jsonl.gz"
