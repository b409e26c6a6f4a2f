"""The LLM service's two engines, and the gateway in front of one of them; all on the stand-in model."""

import sys
from pathlib import Path

from bench.paths import ROOT
from bench.servers import Contender

KEY = "bench-key-0123456789"
MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
"""The stand-in answers to its name."""
PATH = "/v1/chat/completions"
MODELS = ROOT / ".onecard" / "models"
"""Where `make bench-llm` has trained the stand-in."""
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
            "LLM_CPU_THREADS": "1",  # A core is left for all that is no model, as on a machine with a GPU.
            "VLLM_ENABLED": str(vllm).lower(),
            "VLLM_PORT": str(port),
        },
    )


def vllm(models: Path) -> Contender:
    """The LLM service as it is."""
    return _engine(DIRECT, "the LLM service on vLLM (CPU), called directly", models, vllm=True)


def baseline(models: Path) -> Contender:
    """The switchable fallback, called as a script calls a model."""
    what = "the LLM service on Transformers, one request at a time: how it was done before"
    return _engine(BASELINE, what, models, vllm=False)


def gateway(llm_port: int) -> Contender:
    """This project's gateway in front of vLLM; no encoders behind it."""
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
