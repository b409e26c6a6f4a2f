"""Makes ONNX Runtime's graph: as exported, or quantised by its own tool."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from onecard.hardware import cpu_multiplies_int8
from onecard.inference.engines.onnx_runner import GRAPH_FILE
from onecard.inference.packed_arrays import Int64Array


def save_half(exported: Path, folder: Path) -> None:
    """Copy the exported graph into the folder as it is, with the weights that torch writes beside a large one."""
    shutil.copyfile(exported, folder / GRAPH_FILE)
    weights = exported.with_name(f"{exported.name}.data")
    if weights.exists():
        shutil.copyfile(weights, folder / weights.name)


def save_quantised(
    exported: Path, folder: Path, recipe: Sequence[str], calibration: Sequence[Mapping[str, Int64Array]]
) -> None:
    """Quantise the weights of linear layers, channel by channel; activations are quantised while the graph runs.

    Args:
        exported: the exported model.
        folder: gets the graph.
        recipe: kinds of layers that stay as they are: see `build.RECIPES`.
        calibration: not needed for ranges that are measured while the graph runs.

    Raises:
        OSError: the disk is full.
    """
    del calibration
    model = onnx.load(exported)
    quantize_dynamic(
        model,
        folder / GRAPH_FILE,
        per_channel=True,
        reduce_range=not cpu_multiplies_int8(),  # weights of one bit less, so that sums do not saturate
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gemm"],
        nodes_to_exclude=list(layers(model, recipe)),
        extra_options={"MatMulConstBOnly": True},
    )


def layers(model: onnx.ModelProto, recipe: Sequence[str]) -> Iterator[str]:
    """Find the linear layers that a recipe leaves out.

    Args:
        model: the exported model.
        recipe: see `build.RECIPES`.

    Yields:
        Their names.
    """
    shapes = {weight.name: tuple(weight.dims) for weight in model.graph.initializer}
    for node in model.graph.node:
        shape = shapes.get(node.input[1]) if node.op_type in {"MatMul", "Gemm"} else None
        if shape is not None and len(shape) == 2:
            transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            size_in, size_out = reversed(shape) if transposed else shape
            part = "square" if size_in == size_out else "down" if size_in > size_out else "up"
            if part in recipe:
                yield node.name
