"""OpenVINO, imported so that it reports nothing. The only module that imports the package by its name.

By itself the package sends an event to its makers' analytics at each import, and NNCF one for each quantisation, unless
their common reporter cannot be imported.
"""

import sys

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino  # noqa: E402 - after the line that silences it

__all__ = ["openvino"]
