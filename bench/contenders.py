"""The contenders of the encoder benchmark: how each server is started and called."""

import sys
from dataclasses import replace

from bench import weights
from bench.paths import WORK
from bench.peers import INFINITY
from bench.servers import Contender, service
from bench.workload import SHORT, Workload

BUILT = (("openvino", "half"), ("openvino", "int8"), ("onnx", "half"), ("onnx", "int8"))
"""Engines and precisions that `onecard build-engine` builds for contenders of this project."""
PEERS = {
    "infinity": ("default settings (FP32 on a CPU)",),
    "infinity-bf16": ("--dtype bfloat16", "--dtype", "bfloat16"),
    "infinity-plain": ("--no-bettertransformer, as with optimum 2, which has none", "--no-bettertransformer"),
}
"""Infinity's variants: what is particular, and the options for it."""


def engine_settings(workload: Workload = SHORT) -> dict[str, str]:
    """Where the model is, and the engines built from it."""
    return {"EMBEDDING_MODEL": str(workload.model), "MODEL_CACHE_PATH": str(WORK)}


def _onecard(workload: Workload, name: str, engine: str, precision: str) -> Contender:
    what = (
        f"this project's embedding service on {engine}, {precision}; default settings but for the cache, which is off"
    )
    settings = {"ENCODER_ENGINE": engine, "ENCODER_PRECISION": precision, **engine_settings(workload)}
    settings["CACHE_ENABLED"] = "false"  # All texts differ, so a cache would only add cost.
    made = service("embedding", settings, name=name, what=what, path="/v1/embeddings")
    return replace(made, model=workload.model.name.replace("--", "/"))  # As folders of models are named.


def _infinity(workload: Workload, name: str, what: str, *options: str) -> Contender:
    def command(port: int) -> list[str]:
        model = weights.for_older_libraries(workload.model, WORK / f"{workload.model.name}-for-infinity")
        served = ["--model-id", str(model), "--served-model-name", Contender.model, "--engine", "torch"]
        where = ["--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
        return [INFINITY.program("infinity_emb"), "v2", *served, *where, *options]

    what = f"Infinity {INFINITY.version()}, torch engine, {what}"
    return Contender(name, what, command, "/health", "/embeddings")


def contenders(workload: Workload) -> dict[str, Contender]:
    """Describe all servers by name, each with the workload's model."""
    before = [sys.executable, "-m", "bench.baseline", str(workload.model)]
    what = "sentence-transformers in FP32, called once per request in a plain FastAPI app"
    all_of_them = (
        _onecard(workload, "onecard", "torch", "half"),
        *(_onecard(workload, f"onecard-{engine}-{precision}", engine, precision) for engine, precision in BUILT),
        *(_infinity(workload, name, *particular) for name, particular in PEERS.items()),
        Contender("before", what, lambda port: [*before, str(port)], "/health"),
    )
    return {contender.name: contender for contender in all_of_them}


NAMES = tuple(contenders(SHORT))
DEFAULT = ("onecard", "infinity", "before")
