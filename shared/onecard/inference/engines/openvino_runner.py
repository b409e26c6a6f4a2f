"""OpenVINO on a CPU."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onecard.inference.engines.graph_engine import thread_count
from onecard.inference.engines.manifest import openvino_arithmetic
from onecard.inference.engines.openvino_library import openvino
from onecard.inference.packed_arrays import Int64Array

GRAPH_FILE = "graph.xml"
"""The weights lie beside it, in graph.bin, and are mapped, so that replicas share those that are used as they are."""

MAX_CACHED_KERNELS = 256
"""Kernels that are kept: those of single texts, some fifteen for each of their widths. Batches have ever new shapes,
and OpenVINO's default of 5,000 takes hundreds of megabytes."""
_PRECISION = {"bfloat16": openvino.Type.bf16, "float32": openvino.Type.f32}


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
        core, properties, quantised = openvino.Core(), openvino.properties, arithmetic == "int8"
        config: dict[str, Any] = {
            properties.hint.performance_mode(): properties.hint.PerformanceMode.LATENCY,
            properties.num_streams(): 1,
            properties.inference_num_threads(): thread_count(),
            # Of a quantised graph the rest: in FP32 the down-projections alone took longer than all layers that are.
            properties.hint.inference_precision(): _PRECISION[openvino_arithmetic() if quantised else arithmetic],
            properties.enable_mmap(): True,
            # Pinned threads of two services would share one core while another is idle.
            properties.hint.enable_cpu_pinning(): False,
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
