"""OpenVINO on a CPU."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onecard.gpu.device import MAX_CACHED_KERNELS
from onecard.hardware import cpu_multiplies_bfloat16
from onecard.inference.engines.graph_engine import thread_count
from onecard.inference.engines.openvino_library import openvino
from onecard.inference.packed_arrays import Int64Array

GRAPH_FILE = "graph.xml"
"""The weights lie beside it, in graph.bin, and are mapped, so that replicas share those that are used as they are."""

_PRECISION = {
    "bfloat16": openvino.Type.bf16,
    "float32": openvino.Type.f32,
    # What is not quantised: in FP32 the down-projections alone would take longer than all layers that are.
    "int8": openvino.Type.bf16 if cpu_multiplies_bfloat16() else openvino.Type.f32,
}


class OpenVinoRunner:
    """A graph on the CPU; a `GraphRunner`."""

    def __init__(self, graph: Path | openvino.Model, arithmetic: str) -> None:
        """Compile a graph.

        Args:
            graph: an .xml file, or a model in memory.
            arithmetic: number format of the calculation: `bfloat16`, `float32`, or `int8` for a quantised graph.

        Raises:
            RuntimeError: OpenVINO cannot read or compile it.
        """
        core, properties = openvino.Core(), openvino.properties
        config: dict[str, Any] = {
            properties.hint.performance_mode(): properties.hint.PerformanceMode.LATENCY,
            properties.num_streams(): 1,
            properties.inference_num_threads(): thread_count(),
            properties.hint.inference_precision(): _PRECISION[arithmetic],
            properties.enable_mmap(): True,
            # Pinned threads of two services would share one core while another is idle.
            properties.hint.enable_cpu_pinning(): False,
            # Nearly every batch has a new shape; by default 5,000 of their kernels are kept.
            "CPU_RUNTIME_CACHE_CAPACITY": MAX_CACHED_KERNELS,
        }
        model = core.read_model(graph) if isinstance(graph, Path) else graph
        self._request = core.compile_model(model, "CPU", config).create_infer_request()
        self._names = {name for port in self._request.model_inputs for name in port.get_names()}

    def run(self, inputs: Mapping[str, Int64Array]) -> npt.NDArray[Any]:
        """Run the graph.

        Args:
            inputs: see `PackedArrays.graph_inputs`; those that the graph does not read are left out.

        Returns:
            The result of each text, a copy.
        """
        used = {name: array for name, array in inputs.items() if name in self._names}
        return np.array(self._request.infer(used, share_inputs=True, share_outputs=True)[0])
