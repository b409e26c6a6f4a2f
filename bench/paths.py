"""Where the benchmarks keep things."""

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
"""FP32 vectors of the fixed texts that answers are checked against."""
LOGS = WORK / "logs"
"""What the servers print."""
RESULTS = ROOT / "bench" / "results"
"""What a full run writes; git keeps it."""
QUICK_RESULTS = WORK / "quick"
"""What a run with `--quick` writes."""
SAMPLE_REVIEWS = ROOT / "data" / "sample_reviews.jsonl"
