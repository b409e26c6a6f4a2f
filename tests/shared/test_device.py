"""Where a torch process runs, and that it does not fall back to the CPU in silence."""

import pytest
import torch

from onecard import settings as settings_module
from onecard.gpu import device
from onecard.gpu.device import select_device, why_gpu_is_wanted
from onecard.settings import ModelSettings

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="here CUDA works")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings come from the test alone, and no card is to be seen."""
    for name in ModelSettings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(device, "nvidia_trace", lambda: None)


def test_a_machine_without_a_gpu_uses_the_cpu() -> None:
    """Where nobody asks for one."""
    assert why_gpu_is_wanted(ModelSettings()) is None
    assert select_device(ModelSettings()).name == "cpu"


def test_a_gpu_that_is_asked_for_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand, in the environment; empty is not set."""
    monkeypatch.setenv("USE_GPU", "true")
    with pytest.raises(SystemExit, match="USE_GPU=true is set, and CUDA does not work: torch"):
        select_device(ModelSettings())
    monkeypatch.setenv("USE_GPU", "")
    assert select_device(ModelSettings()).name == "cpu"


def test_a_card_that_is_there_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a driver that broke, unless the CPU is asked for."""
    monkeypatch.setattr(device, "nvidia_trace", lambda: "NVIDIA's driver is loaded")
    with pytest.raises(SystemExit, match="NVIDIA's driver is loaded, and CUDA does not work") as stop:
        select_device(ModelSettings())
    assert "USE_GPU=false" in str(stop.value)
    monkeypatch.setenv("USE_GPU", "false")
    assert select_device(ModelSettings()).name == "cpu"


@pytest.mark.parametrize(("gpu", "use_gpu", "allowed"), [(True, "", False), (True, "false", True), (False, "", True)])
def test_stand_ins_are_allowed_where_no_gpu_is_used(
    gpu: bool, use_gpu: str, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine with a card is production, unless it says otherwise."""
    monkeypatch.setattr(settings_module, "has_nvidia_gpu", lambda: gpu)
    monkeypatch.setenv("USE_GPU", use_gpu)
    assert ModelSettings().allow_stand_ins is allowed
    monkeypatch.setenv("ALLOW_STAND_INS", str(not allowed))
    assert ModelSettings().allow_stand_ins is not allowed
