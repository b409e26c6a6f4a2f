"""ONNX Runtime's providers for a card, with bounded memory. Pure. Written from the documentation; it has never run.

Options: onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html and TensorRT-ExecutionProvider.html.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onecard.inference.engines.names import Arithmetic, EngineName
from onecard.inference.packed_arrays import GRAPH_INPUTS

Provider = tuple[str, Mapping[str, Any]]

WORKSPACE_DIVISOR = 4
"""TensorRT's workspace gets a quarter of the process's share of the card, ONNX Runtime's arena the rest."""
WIDTH_MULTIPLE = 8


@dataclass(frozen=True)
class Card:
    """What an engine may use of a card."""

    index: int
    memory_bytes: int
    """The process's share in the memory plan, without the CUDA context."""
    batch_texts: int
    """Most texts in a batch, and so most rows."""


def providers(engine: EngineName, arithmetic: Arithmetic, folder: Path, card: Card, window: int) -> Sequence[Provider]:
    """The providers of a session, best first.

    Args:
        engine: `onnx` for CUDA, or `tensorrt` for TensorRT with CUDA for what it does not take.
        arithmetic: `float16` or `int8`.
        folder: of the engine, where TensorRT finds the plans that it made when the engine was built.
        card: memory and number of texts.
        window: most tokens of a text.

    Returns:
        Names with options.
    """
    workspace = card.memory_bytes // WORKSPACE_DIVISOR if engine == "tensorrt" else 0
    cuda = (
        "CUDAExecutionProvider",
        {
            "device_id": card.index,
            "gpu_mem_limit": card.memory_bytes - workspace,
            # By default the arena doubles, and takes up to twice what is needed.
            "arena_extend_strategy": "kSameAsRequested",
        },
    )
    if engine == "onnx":
        return [cuda]
    tensorrt = (
        "TensorrtExecutionProvider",
        {
            "device_id": card.index,
            "trt_max_workspace_size": workspace,
            "trt_fp16_enable": True,
            "trt_int8_enable": arithmetic == "int8",
            "trt_engine_cache_enable": True,
            "trt_engine_cache_path": str(folder),
            **_profiles(card, window),
        },
    )
    return [tensorrt, cuda]


def _profiles(card: Card, window: int) -> dict[str, str]:
    """One optimisation profile: the smallest, the usual and the largest shapes that the batcher makes."""
    width = -(-window // WIDTH_MULTIPLE) * WIDTH_MULTIPLE
    sizes = {"min": (1, 1), "opt": (card.batch_texts // 2 or 1, min(64, width)), "max": (card.batch_texts, width)}
    return {
        f"trt_profile_{name}_shapes": ",".join(f"{tensor}:{rows}x{columns}" for tensor in GRAPH_INPUTS)
        for name, (rows, columns) in sizes.items()
    }
