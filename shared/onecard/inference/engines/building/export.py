"""Exports a model from torch to ONNX, which every engine reads."""

import logging
import warnings
from pathlib import Path

import torch
from torch import nn

from onecard.inference.packed_arrays import GRAPH_INPUTS

ONNX_FILE = "graph.onnx"


def export(graph: nn.Module, path: Path) -> None:
    """Export a model with free numbers of rows, tokens and texts.

    Args:
        graph: reads the inputs of `PackedArrays.graph_inputs`.
        path: the ONNX file to write, weights included.

    Raises:
        RuntimeError: torch cannot export it.
    """
    # Sizes that differ and are above 1, so that none is taken for a constant or for another.
    rows, width, texts, length = 3, 20, 7, 9
    shapes = [(rows, width)] * 3 + [(texts, length)] * 2
    axes = [{0: "rows", 1: "width"}] * 3 + [{0: "texts", 1: "length"}] * 2
    example = tuple(torch.ones(shape, dtype=torch.int64) for shape in shapes)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph.eval(),
            example,
            dynamo=True,
            verbose=False,
            input_names=GRAPH_INPUTS,
            output_names=("results",),
            dynamic_shapes=tuple(axes),
        )
    if program is None:
        raise RuntimeError("torch exported nothing")
    program.save(path)
