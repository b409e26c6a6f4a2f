"""Makes the graph for ONNX Runtime's CUDA and TensorRT providers: FP16, or INT8 with FP16 between.

Written from the documentation; it has never run on a card. The parity gate decides whether a result is kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16

from onecard.inference.engines.building.onnx_graph import layers
from onecard.inference.engines.onnx_runner import GRAPH_FILE
from onecard.inference.packed_arrays import Int64Array


def save_half(exported: Path, folder: Path) -> None:
    """Write the graph in FP16, with results in FP32, into the folder."""
    onnx.save(convert_float_to_float16(onnx.load(exported), keep_io_types=True), folder / GRAPH_FILE)


def save_quantised(
    exported: Path, folder: Path, recipe: Sequence[str], calibration: Sequence[Mapping[str, Int64Array]]
) -> None:
    """Quantise linear layers with measured ranges. TensorRT wants them symmetric, and computes the rest in FP16.

    Args:
        exported: the exported model.
        folder: gets the graph.
        recipe: kinds of layers that stay as they are: see `build.RECIPES`.
        calibration: inputs of the graph, from which the ranges of the activations are measured.

    Raises:
        OSError: the disk is full.
    """
    quantize_static(
        exported,
        folder / GRAPH_FILE,
        _Reader(calibration),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=["MatMul", "Gemm"],
        nodes_to_exclude=list(layers(onnx.load(exported), recipe)),
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "MatMulConstBOnly": True},
    )


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Hands out the inputs one by one, as the tool wants them."""

    def __init__(self, inputs: Sequence[Mapping[str, Int64Array]]) -> None:
        self._rest: Iterator[Mapping[str, Int64Array]] = iter(inputs)

    def get_next(self) -> dict[str, Int64Array] | None:
        following = next(self._rest, None)
        return None if following is None else dict(following)
