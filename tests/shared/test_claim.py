"""A torch process takes its part of the card. The card is faked: these run where there is none."""

from types import SimpleNamespace

import pytest
import torch
from prometheus_client import CollectorRegistry

from llm_service.settings import LlmSettings
from onecard.gpu.costs import GIB
from onecard.gpu.device import Device
from onecard.gpu.metrics import MemoryCollector, MemoryUsage, memory_metrics
from onecard.gpu.reservation import MemoryReservation, reserve_memory
from onecard.settings import GPU_MODEL, ModelSettings

CPU = Device("cpu", "float32")
CUDA = Device("cuda:1", "float16")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings come from the test alone."""
    for name in LlmSettings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def capped(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, str]]:
    """An 80 GB card; what it was told to cap is added here."""
    calls: list[tuple[float, str]] = []
    properties = SimpleNamespace(total_memory=int(79.15 * GIB))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda name: properties)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda part, name: calls.append((part, name)))
    return calls


def settings(**changed: object) -> ModelSettings:
    """The models for a GPU, with some settings changed."""
    return ModelSettings.model_validate({"llm_model": GPU_MODEL, "model_cache_path": "/nothing", **changed})


def test_nothing_is_capped_on_the_cpu() -> None:
    """Small batches: no text waits long for the one that runs. What is set wins."""
    assert reserve_memory("sentiment", settings(), CPU) == MemoryReservation(
        "sentiment", None, batch_texts=32, batch_tokens=1024
    )
    assert reserve_memory("sentiment", settings(), CPU, batch_texts=64, batch_tokens=99).batch_tokens == 99


def test_the_plans_share_is_the_cap(capped: list[tuple[float, str]]) -> None:
    """2% of an 80 GB card, batches of 128 texts."""
    claimed = reserve_memory("embedding", settings(), CUDA)
    assert claimed == MemoryReservation("embedding", int(0.02 * int(79.15 * GIB)), batch_texts=128, batch_tokens=65_536)
    assert capped[0] == (pytest.approx(0.02), "cuda:1")
    assert len(capped) == 1


def test_a_24_gb_plan_on_an_80_gb_card_caps_the_same_bytes(capped: list[tuple[float, str]]) -> None:
    """5% of 23.56 GiB."""
    claimed = reserve_memory("sentiment", settings(gpu_card_gb=24), CUDA)
    assert claimed.planned_bytes == int(0.05 * int(23.56 * GIB))
    assert capped[0][0] * 79.15 == pytest.approx(0.05 * 23.56)
    assert (claimed.batch_texts, claimed.batch_tokens) == (64, 32_768)


def test_batches_can_be_set_in_both_directions(
    capped: list[tuple[float, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Above the plan is logged, and done."""
    below = reserve_memory("sentiment", settings(), CUDA, batch_texts=8, batch_tokens=512)
    assert (below.batch_texts, below.batch_tokens) == (8, 512)
    assert "BATCH_TEXTS" not in capsys.readouterr().out
    assert reserve_memory("sentiment", settings(), CUDA, batch_texts=500).batch_texts == 500
    said = capsys.readouterr()
    assert "BATCH_TEXTS" in said.out + said.err


@pytest.mark.parametrize(
    ("changed", "says"), [({"gpu_card_gb": 12}, "7B-Instruct-AWQ"), ({"embedding_model": "a/b"}, "EMBEDDING_MODEL=a/b")]
)
def test_a_plan_that_cannot_be_made_stops_the_start(
    capped: list[tuple[float, str]], changed: dict[str, object], says: str
) -> None:
    """One line, and nothing is capped or loaded."""
    with pytest.raises(SystemExit, match=says) as stop:
        reserve_memory("sentiment", settings(**changed), CUDA)
    assert "\n" not in str(stop.value)
    assert capped == []


def values(registry: CollectorRegistry, part: str) -> dict[str, float | None]:
    """The three gauges."""
    names = ("planned", "measured", "measured_max")
    return {n: registry.get_sample_value(f"onecard_gpu_memory_{n}_bytes", {"part": part}) for n in names}


def test_torchs_memory_is_measured_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planned beside reserved, now and at most."""
    held = iter([100, 300])
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda name: next(held))
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda name: 400)
    registry = CollectorRegistry()
    memory_metrics(registry, MemoryReservation("sentiment", 1000, 64, 512), CUDA)
    assert registry.get_sample_value("onecard_gpu_memory_measured_bytes", {"part": "sentiment"}) == 100
    assert registry.get_sample_value("onecard_gpu_memory_measured_bytes", {"part": "sentiment"}) == 300
    held = iter([1, 1, 1])
    assert values(registry, "sentiment") == {"planned": 1000, "measured": 1, "measured_max": 400}


def test_what_cannot_be_measured_is_left_out() -> None:
    """No number is made up; on the CPU there is no gauge at all."""
    registry = CollectorRegistry()
    registry.register(MemoryCollector("llm", 1000, MemoryUsage))
    assert values(registry, "llm") == {"planned": 1000, "measured": None, "measured_max": None}
    memory_metrics(registry, MemoryReservation("sentiment", None, 32, 1024), CPU)
    assert values(registry, "sentiment") == {"planned": None, "measured": None, "measured_max": None}
