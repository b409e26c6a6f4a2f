"""Makes OpenVINO's graph from ONNX, quantised by NNCF if wanted."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from onecard.hardware import cpu_multiplies_int8
from onecard.inference.engines.openvino_library import openvino
from onecard.inference.engines.openvino_runner import GRAPH_FILE
from onecard.inference.packed_arrays import Int64Array


def save_half(onnx: Path, folder: Path) -> None:
    """Write the graph as it is; its number format is chosen where it is compiled.

    Args:
        onnx: the exported model.
        folder: gets the graph and its weights.

    Raises:
        RuntimeError: OpenVINO cannot read the model, or cannot write, for example on a full disk.
    """
    _save(openvino.Core().read_model(onnx), folder)


def save_quantised(
    onnx: Path, folder: Path, recipe: Sequence[str], calibration: Sequence[Mapping[str, Int64Array]]
) -> None:
    """Quantise linear layers and write the graph.

    Args:
        onnx: the exported model.
        folder: gets the graph and its weights.
        recipe: kinds of layers that stay as they are: see `build.RECIPES`.
        calibration: inputs of the graph, from which the ranges of the activations are measured.

    Raises:
        RuntimeError: OpenVINO cannot read the model, or cannot write, for example on a full disk.
    """
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

    nncf.set_log_level(logging.ERROR)
    model = openvino.Core().read_model(onnx)
    quantised = nncf.quantize(
        model,
        nncf.Dataset(list(calibration)),
        subset_size=len(calibration),
        model_type=nncf.ModelType.TRANSFORMER,
        target_device=nncf.TargetDevice.CPU,
        ignored_scope=nncf.IgnoredScope(names=list(_layers(model, recipe)), validate=False),
        advanced_parameters=AdvancedQuantizationParameters(
            # Weights of one bit less, so that sums do not saturate.
            overflow_fix=OverflowFix.DISABLE if cpu_multiplies_int8() else OverflowFix.ENABLE
        ),
    )
    _save(quantised, folder)


def _save(model: openvino.Model, folder: Path) -> None:
    openvino.save_model(model, folder / GRAPH_FILE, compress_to_fp16=False)


def _layers(model: Any, recipe: Sequence[str]) -> Iterator[str]:
    """Names of the matrix products that a recipe leaves out."""
    for operation in model.get_ops():
        # Quantised, attention took longer in the runs that compared it, and not one neighbour was won.
        if operation.get_type_name() == "MatMul" and _part(operation) in ("attention", *recipe):
            yield operation.get_friendly_name()


def _part(product: Any) -> str:
    """Which part of the model a matrix product is: see `build.RECIPES`."""
    weight = next((port for port in product.input_values() if port.get_node().get_type_name() == "Constant"), None)
    if weight is None:
        return "attention"
    size_in, size_out = _sizes(weight.get_shape(), product.get_attributes())
    if size_in == size_out:
        return "square"
    return "down" if size_in > size_out else "up"


def _sizes(shape: Sequence[int], attributes: Mapping[str, Any]) -> tuple[int, int]:
    """Sizes of the input and the output of a linear layer."""
    first, second = shape[-2], shape[-1]
    return (second, first) if attributes["transpose_b"] else (first, second)
