"""`python -m bench.gpu_day encoders` and `python -m bench.gpu_day llm`: measure on this machine's card.

Each run replaces its own part of gpu.json and writes gpu.md from both. `--tiny` is for a CPU: small models for moments.
"""

import argparse
import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sentence_transformers
import torch
import transformers

from bench.gpu_day import encoders, llm
from bench.gpu_day.interleaving import RUN_SECONDS, Scale
from bench.paths import RESULTS
from bench.tables import page

PARTS = {"encoders": encoders, "llm": llm}


def head(command: str) -> str:
    """Describe the run: date, device and versions."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no card: a CPU"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    versions += f", sentence-transformers {sentence_transformers.__version__}"
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC · {device} · {versions} · `python -m bench.gpu_day {command}`"


def as_markdown(document: Mapping[str, Any]) -> str:
    """Render the report of the runs so far."""
    parts = ["# On a card", "Random weights of the real sizes: speed and memory, and nothing about quality."]
    for name, part in PARTS.items():
        if name in document:
            parts += [f"## {part.TITLE}", document[name]["head"], *part.as_markdown(document[name])]
    return page(*parts)


def main() -> None:
    """Measure one part and write the report."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_day", description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--tiny", action="store_true", help="small models for moments, for a CPU")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of gpu.json and gpu.md")
    given = parser.parse_args()
    if not (given.tiny or torch.cuda.is_available()):
        parser.exit(message="No CUDA card here: nothing measured. --tiny tries the program on a CPU.\n")
    measured = PARTS[given.part].measure(Scale(given.tiny, time.monotonic() + RUN_SECONDS))
    given.out.mkdir(parents=True, exist_ok=True)
    kept = given.out / "gpu.json"
    document = json.loads(kept.read_text()) if kept.exists() else {}
    document[given.part] = {"head": head(f"{given.part}{' --tiny' if given.tiny else ''}"), **measured}
    kept.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    text = as_markdown(document)
    (given.out / "gpu.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
