"""The day on a card, tiny and on a CPU, in an environment that has no more than a card's machine has."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import torch

from bench.paths import ROOT

GIVEN = ("torch", "transformers", "sentence-transformers")
NOT_NEEDED = {"typer", "pydantic"}
"""What later versions of these need, and earlier ones did not."""


def needed(names: tuple[str, ...]) -> set[str]:
    """The packages, and all that they need."""
    found: set[str] = set()
    waiting = [*names]
    while waiting:
        name = re.sub("[-_.]+", "-", waiting.pop()).lower()
        try:
            wanted = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        if name not in found | NOT_NEEDED:
            found.add(name)
            waiting += [re.split(r"[^\w.-]", one)[0] for one in wanted if "extra ==" not in one]
    return found


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that has these packages, and nothing else."""
    folder = tmp_path_factory.mktemp("packages")
    for name in needed(GIVEN):
        it = distribution(name)
        for top in {file.parts[0] for file in it.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            (folder / top).symlink_to(Path(str(it.locate_file(top))))
    return folder


def run(packages: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": f"{packages}:{ROOT}", "PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-S", "-m", "bench.gpu_day", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card here")
def test_without_a_card_it_says_so(packages: Path) -> None:
    """One line and exit code 0."""
    made = run(packages, "llm")
    assert (made.returncode, made.stderr.count("\n")) == (0, 1), made.stderr
    assert "No CUDA card here" in made.stderr


def test_a_tiny_day_needs_no_more_than_three_packages(packages: Path, tmp_path: Path) -> None:
    """Both runs write into one report: every way in every precision, the batcher's back-off, and no vLLM."""
    for part in ("encoders", "llm"):
        made = run(packages, part, "--tiny", "--out", str(tmp_path))
        assert made.returncode == 0, made.stderr
    document = json.loads((tmp_path / "gpu.json").read_text())
    precisions = document["encoders"]["precisions"]
    assert [*precisions] == ["float32", "float16", "bfloat16"]
    for found in precisions.values():
        assert found["least_cosine_to_fp32"] > 0.99
        assert {"dense mask", "padded", "sentence-transformers"} < found["texts_per_second"].keys()
        assert all(rate > 0 for rates in found["texts_per_second"].values() for rate in rates.values())
        tried = found["back_off"]
        assert tried["answered"] == tried["texts"]
        assert tried["out_of_memory"] > 0
        assert tried["last_budget_tokens"] < tried["first_budget_tokens"]
    assert {*document["llm"]["tokens_per_second"]["transformers"]} == {"1", "20"}
    text = (tmp_path / "gpu.md").read_text()
    assert "vLLM did not run: ModuleNotFoundError" in text
    assert "On a card" in text
