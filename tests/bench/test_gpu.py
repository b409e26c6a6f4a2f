"""What of the GPU benchmark needs no GPU."""

import subprocess
import sys

import pytest
import torch

from bench import gpu
from bench.backoff import run_all
from bench.places import ROOT


def card(holds_tokens: int, ran: list[tuple[int, int]]):  # type: ignore[no-untyped-def]
    """A `run` for a card with room for so many padded tokens."""

    def run(texts: int, tokens: int) -> None:
        if texts * tokens > holds_tokens:
            raise torch.OutOfMemoryError
        ran.append((texts, tokens))

    return run


def test_back_off_runs_every_text() -> None:
    """The budget is halved until a batch fits, and every text is run once."""
    ran: list[tuple[int, int]] = []
    outcome = run_all([100] * 64, 6_400, card(1_600, ran), lambda: None)
    assert outcome.budgets == [6_400, 3_200, 1_600]
    assert (outcome.texts, outcome.refused) == (64, 0)
    assert sum(texts for texts, _ in ran) == 64


def test_back_off_refuses_only_what_cannot_fit() -> None:
    """A text that is too long alone is refused; the others are run."""
    ran: list[tuple[int, int]] = []
    outcome = run_all([10, 500, 20], 1_000, card(100, ran), lambda: None)
    assert (outcome.texts, outcome.refused) == (2, 1)


def test_back_off_lets_other_errors_through() -> None:
    """Only a full card is a reason to try again."""

    def broken(texts: int, tokens: int) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        run_all([1], 10, broken, lambda: None)


@pytest.mark.parametrize("precision", gpu.PRECISIONS)
def test_plan_is_within_its_own_cap(precision: str) -> None:
    """What is planned for an encoder fits its share, on a 24 GB and an 80 GB card."""
    for size in (24, 80):
        plan = gpu.plan_for(size, precision, None)
        assert gpu.planned_bytes(plan) < plan.embedding.size_bytes


def test_report_names_what_went_over_its_cap() -> None:
    """A measured peak above the cap is a «no» in the table."""
    plan = gpu.plan_for(24, "float16", None)
    row = {
        "model": "encoder", "precision": "float16", "card_bytes": plan.card_bytes, "share": plan.embedding.fraction,
        "planned_bytes": gpu.planned_bytes(plan), "peak_reserved_bytes": plan.embedding.size_bytes + 2**20,
        "texts_per_second": {"512": 100.0}, "back_off": {"budgets": [8, 4], "texts": 2, "batches": 1, "refused": 0},
    }  # fmt: skip
    text = gpu.as_markdown({"date": "today", "gpu": "card", "card_gb": 24.0, "torch": "2"}, [row])
    assert "| no |" in text
    assert "8 → 4 tokens" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so() -> None:
    """One line and exit code 0."""
    made = subprocess.run([sys.executable, "-m", "bench.gpu"], cwd=ROOT, capture_output=True, text=True)
    assert (made.returncode, made.stdout.count("\n")) == (0, 1)
    assert "No CUDA GPU" in made.stdout
