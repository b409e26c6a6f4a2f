"""The contenders of the encoder benchmark: how each server is started and called."""

import sys

from bench import weights
from bench.paths import WORK
from bench.peers import INFINITY
from bench.servers import Contender
from bench.workload import SHORT, Workload

NAME = "bench"
"""Name of the model at Infinity."""


def _infinity(workload: Workload, port: int, *more: str) -> list[str]:
    model = weights.for_older_libraries(workload.model, WORK / f"{workload.model.name}-for-infinity")
    where = ["--host", "127.0.0.1", "--port", str(port)]
    what = ["--model-id", str(model), "--served-model-name", NAME, "--engine", "torch", "--device", "cpu"]
    return [INFINITY.program("infinity_emb"), "v2", *what, *where, *more]


BUILT = (("openvino", "half"), ("openvino", "int8"), ("onnx", "half"), ("onnx", "int8"))
"""Engines and precisions that `onecard build-engine` builds for contenders of this project."""


def _onecard(workload: Workload, name: str, engine: str, precision: str) -> Contender:
    return Contender(
        name,
        f"this project's embedding service on {engine}, {precision}; default settings but for the cache, which is off",
        lambda port: [sys.executable, "-m", "embedding_service"],
        "/health/ready",
        model=workload.model.name.replace("--", "/"),  # As folders of models are named.
        environment=lambda port: {
            **engine_settings(workload),
            "ENCODER_ENGINE": engine,
            "ENCODER_PRECISION": precision,
            "EMBEDDING_PORT": str(port),
            "CACHE_ENABLED": "false",  # All texts differ, so a cache would only add cost.
        },
    )


def engine_settings(workload: Workload = SHORT) -> dict[str, str]:
    """Where the model is, and the engines built from it."""
    return {"EMBEDDING_MODEL": str(workload.model), "MODEL_CACHE_PATH": str(WORK)}


def contenders(workload: Workload) -> dict[str, Contender]:
    """Describe all servers by name, each with the workload's model."""
    all_of_them = (
        _onecard(workload, "onecard", "torch", "half"),
        *(_onecard(workload, f"onecard-{engine}-{precision}", engine, precision) for engine, precision in BUILT),
        Contender(
            "infinity",
            f"Infinity {INFINITY.version()}, torch engine, default settings (FP32 on a CPU)",
            lambda port: _infinity(workload, port),
            "/health",
            "/embeddings",
        ),
        Contender(
            "infinity-bf16",
            f"Infinity {INFINITY.version()}, torch engine, --dtype bfloat16",
            lambda port: _infinity(workload, port, "--dtype", "bfloat16"),
            "/health",
            "/embeddings",
        ),
        Contender(
            "infinity-plain",
            f"Infinity {INFINITY.version()}, torch engine, --no-bettertransformer, as with optimum 2, which has none",
            lambda port: _infinity(workload, port, "--no-bettertransformer"),
            "/health",
            "/embeddings",
        ),
        Contender(
            "before",
            "sentence-transformers in FP32, called once per request in a plain FastAPI app",
            lambda port: [sys.executable, "-m", "bench.baseline", str(workload.model), str(port)],
            "/health",
        ),
    )
    return {contender.name: contender for contender in all_of_them}


NAMES = tuple(contenders(SHORT))
DEFAULT = ("onecard", "infinity", "before")
