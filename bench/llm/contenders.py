"""The LLM service's two engines, and the gateway in front of one of them, all with the stand-in model."""

import sys
from pathlib import Path

from bench.paths import ROOT
from bench.servers import Contender

KEY = "bench-key-0123456789"
MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
"""Name that the stand-in accepts."""
PATH = "/v1/chat/completions"
MODELS = ROOT / ".onecard" / "models"
"""Folder into which `make bench-llm` trains the stand-in."""
DIRECT, GATEWAY, BASELINE = "vllm", "gateway", "before"


def _engine(name: str, what: str, models: Path, *, vllm: bool) -> Contender:
    return Contender(
        name,
        what,
        lambda port: [sys.executable, "-m", "llm_service"],
        "/health/ready",
        PATH,
        environment=lambda port: {
            "MODEL_CACHE_PATH": str(models),
            "LLM_MODEL": MODEL,
            "API_KEY": KEY,
            "USE_GPU": "false",
            "LLM_CPU_THREADS": "1",  # Leaves a core for everything else, as on a machine with a GPU.
            "VLLM_ENABLED": str(vllm).lower(),
            "VLLM_PORT": str(port),
        },
    )


def vllm(models: Path) -> Contender:
    """Describe the LLM service on vLLM."""
    return _engine(DIRECT, "the LLM service on vLLM (CPU), called directly", models, vllm=True)


def baseline(models: Path) -> Contender:
    """Describe the LLM service on Transformers, which handles one request at a time."""
    what = "the LLM service on Transformers, one request at a time: how it was done before"
    return _engine(BASELINE, what, models, vllm=False)


def gateway(llm_port: int) -> Contender:
    """Describe the gateway in front of vLLM, without encoders."""
    llm = f"http://127.0.0.1:{llm_port}"
    return Contender(
        GATEWAY,
        "the same vLLM through this project's gateway, its cache off",
        lambda port: [sys.executable, "-m", "gateway"],
        "/health/ready",
        PATH,
        environment=lambda port: {
            "LLM_URL": llm,
            "API_KEY": KEY,
            "CACHE_ENABLED": "false",
            "GATEWAY_PORT": str(port),
        },
    )
