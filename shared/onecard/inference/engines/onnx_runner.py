"""ONNX Runtime: on a CPU, and with its CUDA and TensorRT providers on a card. The only module that imports it to serve.

The providers of a card are written against ONNX Runtime's documentation and have never run.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from onecard.batching.engine import OutOfMemory
from onecard.inference.engines.card import Provider
from onecard.inference.engines.graph_engine import thread_count
from onecard.inference.packed_arrays import Int64Array

GRAPH_FILE = "graph.onnx"

CPU: Sequence[Provider] = (("CPUExecutionProvider", {}),)


class OnnxRunner:
    """A graph; a `GraphRunner`."""

    def __init__(self, graph: Path, providers: Sequence[Provider] = CPU) -> None:
        """Load a graph.

        Args:
            graph: an .onnx file.
            providers: what runs the graph, in order of preference.

        Raises:
            RuntimeError: ONNX Runtime cannot load it, or would not run it on the first provider.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = thread_count()
        options.log_severity_level = 3  # errors; warnings would mix with the JSON logs
        # Idle threads would spin, and take the cores from the other services.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(graph), options, providers=list(providers))
        if self._session.get_providers()[0] != (first := providers[0][0]):
            raise RuntimeError(f"ONNX Runtime has no {first} here")
        self._names = {port.name for port in self._session.get_inputs()}

    def run(self, inputs: Mapping[str, Int64Array]) -> npt.NDArray[Any]:
        """Run the graph.

        Args:
            inputs: see `PackedArrays.graph_inputs`; those that the graph does not read are left out.

        Returns:
            The result of each text.

        Raises:
            OutOfMemory: the batch does not fit.
        """
        used = {name: array for name, array in inputs.items() if name in self._names}
        try:
            results: npt.NDArray[Any] = self._session.run(None, used)[0]
        except Exception as error:  # its classes depend on the build; only the message tells
            if "allocate memory" in str(error) or "out of memory" in str(error):
                raise OutOfMemory(str(error)) from None
            raise
        return np.asarray(results)
