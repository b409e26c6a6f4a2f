"""What of the GPU benchmark needs no GPU."""

import subprocess
import sys

import pytest
import torch

from bench import gpu, gpu_worker
from bench.paths import ROOT
from onecard.batching.engine import OutOfMemory, RunningBatch
from onecard.batching.queue import Batch
from onecard.gpu.device import Device
from onecard.inference.warm_up import LoadedEngine


@pytest.fixture(scope="module", params=gpu_worker.MODELS)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedEngine[object]:
    """Each engine as the benchmark loads it, on the CPU."""
    return gpu_worker.load(request.param, tmp_path_factory.mktemp("model") / "m", Device("cpu", "float32"))


def test_speed_is_measured_over_whole_batches(engine: LoadedEngine[object]) -> None:
    """Also on a device that does one batch at a time."""
    assert gpu_worker.texts_per_second(engine, 64, seconds=0.2) > 0


async def test_back_off_is_the_services_own(engine: LoadedEngine[object], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a card with room for 100 tokens, in widths of 8, every text is answered, and the report has what it cost."""
    launch = engine.launch

    def small(batch: Batch) -> RunningBatch[object]:
        if batch.packing.padded_tokens > 100:
            raise OutOfMemory
        return launch(batch)

    monkeypatch.setattr(engine, "launch", small)
    outcome = await gpu_worker.back_off(engine, gpu_worker.texts_of(320, (20, 20)))
    assert outcome == gpu_worker.BackoffResult(answered=16, out_of_memory=2, budget_tokens=(320, 60))


@pytest.mark.parametrize("tokens", [1, 100, 5_000])
def test_texts_fill_what_they_may(tokens: int) -> None:
    """One at least, and never more than asked for."""
    made = gpu_worker.texts_of(tokens, (8, 28))
    assert len(made) == 1 or tokens - 28 < sum(map(len, made)) <= tokens


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
        "model": "encoder", "precision": "float16", "card_bytes": plan.gpu_bytes, "share": plan.embedding.fraction,
        "planned_bytes": gpu.planned_bytes(plan), "peak_reserved_bytes": plan.embedding.size_bytes + 2**20,
        "texts_per_second": {"512": 100.0}, "back_off": {"answered": 2, "out_of_memory": 1, "budget_tokens": [8, 4]},
    }  # fmt: skip
    text = gpu.as_markdown({"date": "today", "gpu": "card", "card_gb": 24.0, "torch": "2"}, [row])
    assert "| no |" in text
    assert "from 8 to 4 tokens" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so() -> None:
    """One line and exit code 0."""
    made = subprocess.run([sys.executable, "-m", "bench.gpu"], cwd=ROOT, capture_output=True, text=True)
    assert (made.returncode, made.stdout.count("\n")) == (0, 1)
    assert "No CUDA GPU" in made.stdout
