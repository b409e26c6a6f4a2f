"""The contenders of the encoder benchmark: how each server is started and called."""

import sys

from bench.paths import MODEL
from bench.peers import INFINITY
from bench.servers import Contender

NAME = "bench"
"""Name of the model at Infinity."""


def _infinity(port: int, *more: str) -> list[str]:
    where = ["--host", "127.0.0.1", "--port", str(port)]
    what = ["--model-id", str(MODEL), "--served-model-name", NAME, "--engine", "torch", "--device", "cpu"]
    return [INFINITY.program("infinity_emb"), "v2", *what, *where, *more]


BUILT = (("openvino", "half"), ("openvino", "int8"), ("onnx", "half"), ("onnx", "int8"))
"""Engines and precisions that `onecard build-engine` builds for contenders of this project."""


def _onecard(name: str, engine: str, precision: str) -> Contender:
    return Contender(
        name,
        f"this project's embedding service on {engine}, {precision}; default settings but for the cache, which is off",
        lambda port: [sys.executable, "-m", "embedding_service"],
        "/health/ready",
        model=MODEL.name,
        environment=lambda port: {
            **engine_settings(),
            "ENCODER_ENGINE": engine,
            "ENCODER_PRECISION": precision,
            "EMBEDDING_PORT": str(port),
            "CACHE_ENABLED": "false",  # All texts differ, so a cache would only add cost.
        },
    )


def engine_settings() -> dict[str, str]:
    """Where the model is, and the engines built from it."""
    return {"EMBEDDING_MODEL": str(MODEL), "MODEL_CACHE_PATH": str(MODEL.parent)}


CONTENDERS = {
    contender.name: contender
    for contender in (
        _onecard("onecard", "torch", "half"),
        *(_onecard(f"onecard-{engine}-{precision}", engine, precision) for engine, precision in BUILT),
        Contender(
            "infinity",
            f"Infinity {INFINITY.version()}, torch engine, default settings (FP32 on a CPU)",
            _infinity,
            "/health",
            "/embeddings",
        ),
        Contender(
            "infinity-bf16",
            f"Infinity {INFINITY.version()}, torch engine, --dtype bfloat16",
            lambda port: _infinity(port, "--dtype", "bfloat16"),
            "/health",
            "/embeddings",
        ),
        Contender(
            "infinity-plain",
            f"Infinity {INFINITY.version()}, torch engine, --no-bettertransformer, as with optimum 2, which has none",
            lambda port: _infinity(port, "--no-bettertransformer"),
            "/health",
            "/embeddings",
        ),
        Contender(
            "before",
            "sentence-transformers in FP32, called once per request in a plain FastAPI app",
            lambda port: [sys.executable, "-m", "bench.baseline", str(MODEL), str(port)],
            "/health",
        ),
    )
}
DEFAULT = ("onecard", "infinity", "before")
