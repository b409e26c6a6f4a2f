"""Opens an engine's graph; imports the library of this engine and no other."""

from pathlib import Path

from onecard.inference.engines.card import Card, providers
from onecard.inference.engines.graph_engine import GraphRunner
from onecard.inference.engines.names import Arithmetic, EngineName


def open_runner(
    engine: EngineName, folder: Path, arithmetic: Arithmetic, window: int, card: Card | None
) -> GraphRunner:
    """Load a graph.

    Args:
        engine: that runs it.
        folder: of the engine.
        arithmetic: number format of the calculation.
        window: most tokens of a text.
        card: what it may use of a card; None on a CPU.

    Returns:
        The loaded graph.

    Raises:
        ImportError: the engine's library is missing or broken.
        RuntimeError: it cannot load the graph.
    """
    if engine == "openvino":
        from onecard.inference.engines.openvino_runner import GRAPH_FILE, OpenVinoRunner

        return OpenVinoRunner(folder / GRAPH_FILE, arithmetic)
    from onecard.inference.engines.onnx_runner import CPU, OnnxRunner
    from onecard.inference.engines.onnx_runner import GRAPH_FILE as ONNX_FILE

    return OnnxRunner(folder / ONNX_FILE, providers(engine, arithmetic, folder, card, window) if card else CPU)
