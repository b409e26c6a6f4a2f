"""What engines, precisions and encoders are called. Imports nothing, because the gateway reads the settings, too."""

from typing import Literal

EngineName = Literal["onnx", "openvino", "tensorrt"]
EngineChoice = Literal["torch", "onnx", "openvino", "tensorrt", "auto"]
"""Value of ENCODER_ENGINE."""

Precision = Literal["half", "int8"]
"""Value of ENCODER_PRECISION."""

Arithmetic = Literal["float16", "bfloat16", "float32", "int8"]
"""Number format of most of a calculation: `half` is FP32 on a CPU without instructions for less."""

EncoderKind = Literal["sentiment", "embedding"]
